//! The Python module `r3map._r3map`: the nouns of the core as classes. What is Python about it lies in
//! `python/r3map`: the exceptions, the file object, callbacks, `asyncio` and `fsspec`.
//!
//! Every call that may wait lets go of the interpreter's lock and answers Ctrl-C (`wait`). Nothing here runs Python
//! code on a thread of the library but for the methods of a backend written in Python (`own`).

use pyo3::prelude::*;

mod argument;
mod backend;
mod buffer;
mod cancel;
mod ending;
mod error;
mod event;
mod leecher;
mod log;
mod mount;
mod options;
mod own;
mod owned;
mod progress;
mod seeder;
mod server;
mod slice;
mod stats;
mod wait;

/// The native half of r3map. `import r3map`.
#[pymodule]
fn _r3map(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", r3map_core::VERSION)?;
    module.add_class::<backend::Backend>()?;
    module.add_class::<cancel::Cancel>()?;
    module.add_class::<event::Event>()?;
    module.add_class::<leecher::Leecher>()?;
    module.add_class::<mount::Mount>()?;
    module.add_class::<seeder::Group>()?;
    module.add_class::<seeder::SeedEvent>()?;
    module.add_class::<seeder::Seeder>()?;
    module.add_class::<server::Server>()?;
    module.add_function(wrap_pyfunction!(backend::open_backend, module)?)?;
    module.add_function(wrap_pyfunction!(backend::connect, module)?)?;
    module.add_function(wrap_pyfunction!(leecher::leech, module)?)?;
    module.add_function(wrap_pyfunction!(mount::mount, module)?)?;
    module.add_function(wrap_pyfunction!(server::serve, module)?)?;
    module.add_function(wrap_pyfunction!(log::log_to, module)?)?;
    module.add_function(wrap_pyfunction!(log::log_off, module)?)?;
    module.add_function(wrap_pyfunction!(error::codes, module)?)?;
    module.add_function(wrap_pyfunction!(ending::end, module)?)?;
    Ok(())
}
