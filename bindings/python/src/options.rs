//! Options as keyword arguments: the same names and values as everywhere, also in Python's own types.

use std::path::PathBuf;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString, PyTuple};
use r3map_core::options::{PullRange, parse_bool, parse_time};
use r3map_core::url::nearest;
use r3map_core::{
    BackendOptions, Code, Credentials, Error, ExportOptions, MountOptions, Result, SeedOptions, ServerOptions,
};

use crate::argument::{time, type_of};
use crate::error;

/// Options of a backend, by name.
const BACKEND: [&str; 7] = ["tls_cert", "tls_key", "tls_ca", "tls_pin", "token", "insecure", "compression"];

/// What opening a backend and mounting it takes.
#[derive(Default)]
pub struct Options {
    pub mount: MountOptions,
    pub backend: BackendOptions,
    /// Whether any option of the backend was set.
    pub for_backend: bool,
    /// A function of the offset that says what to pull first.
    pub priority: Option<Py<PyAny>>,
}

fn invalid(message: String) -> Error {
    Error::new(Code::InvalidArgument, message)
}

fn unknown(name: &str, known: &[&str]) -> Error {
    invalid(format!("{name}: unknown option{}", nearest(name, known, "")))
}

/// The options given, those that are `None` left at their defaults.
fn given<'py>(options: Option<&Bound<'py, PyDict>>) -> PyResult<Vec<(String, Bound<'py, PyAny>)>> {
    let mut found = Vec::new();
    for (name, value) in options.into_iter().flatten() {
        if !value.is_none() {
            found.push((name.extract()?, value));
        }
    }
    Ok(found)
}

/// A value as the text that every language sets options by.
fn text(name: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    if value.is_instance_of::<PyBool>() {
        Ok(value.is_truthy()?.to_string())
    } else if value.is_instance_of::<PyString>() || value.is_instance_of::<PyInt>() {
        Ok(value.str()?.to_string())
    } else if value.is_instance_of::<PyFloat>() {
        Ok(value.extract::<f64>()?.to_string())
    } else if let Ok(path) = value.extract::<std::path::PathBuf>() {
        path.into_os_string().into_string().map_err(|_| PyTypeError::new_err(format!("{name}: not UTF-8")))
    } else if let Ok(time) = time(value) {
        Ok(format!("{}", time.as_secs_f64()))
    } else {
        Err(PyTypeError::new_err(format!("{name}: a string or a number, not {}", type_of(value)?)))
    }
}

impl Options {
    /// Options of a mount or leecher and of the backend under it.
    pub fn of(py: Python<'_>, options: Option<&Bound<'_, PyDict>>) -> PyResult<Options> {
        let mut found = Options::default();
        for (name, value) in given(options)? {
            match name.as_str() {
                "pull_range" if value.is_callable() => found.priority = Some(value.unbind()),
                "pull_range" => found.mount.pull_ranges.extend(ranges(&value)?),
                "at" => found.mount.at = Some(value.extract()?),
                "trace" => found.mount.trace = Some(value.extract()?),
                known if BACKEND.contains(&known) => {
                    set_backend(py, &mut found.backend, known, &value)?;
                    found.for_backend = true;
                }
                other => {
                    let known: Vec<_> = MountOptions::NAMES
                        .iter()
                        .chain(MountOptions::OF_A_LEECHER)
                        .chain(&BACKEND)
                        .chain(&["at"])
                        .copied()
                        .collect();
                    if !known.contains(&other) {
                        return Err(error::raise(py, unknown(other, &known)));
                    }
                    let set = found.mount.set(other, &text(other, &value)?);
                    set.map_err(|failure| error::raise(py, failure))?;
                }
            }
        }
        Ok(found)
    }
}

/// Options of a backend alone.
pub fn backend(py: Python<'_>, options: Option<&Bound<'_, PyDict>>) -> PyResult<BackendOptions> {
    let mut found = BackendOptions::default();
    for (name, value) in given(options)? {
        set_backend(py, &mut found, &name, &value)?;
    }
    Ok(found)
}

/// The error for options of a backend that is open already.
pub fn check_none_for_backend(py: Python<'_>, any: bool) -> PyResult<()> {
    match any {
        false => Ok(()),
        true => {
            let message = format!("{} are taken where a URL is opened, and this backend is open", BACKEND.join(", "));
            Err(error::raise(py, invalid(message)))
        }
    }
}

fn set_backend(py: Python<'_>, options: &mut BackendOptions, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let path = || value.extract().map(Some);
    match name {
        "tls_cert" => options.tls_cert = path()?,
        "tls_key" => options.tls_key = path()?,
        "tls_ca" => options.tls_ca = path()?,
        "tls_pin" => options.tls_pin = value.extract()?,
        "token" => options.token = value.extract::<Option<String>>()?.map(Into::into),
        "insecure" => options.insecure = flag(py, name, value)?,
        "compression" => {
            let set = text(name, value)?.parse().map_err(|failure: Error| failure.context(name));
            options.compression = raised(py, set)?;
        }
        _ => return Err(error::raise(py, unknown(name, &BACKEND))),
    }
    Ok(())
}

/// Options of a server.
pub fn server(py: Python<'_>, options: Option<&Bound<'_, PyDict>>) -> PyResult<ServerOptions> {
    let mut found = ServerOptions::default();
    for (name, value) in given(options)? {
        if Credentials::NAMES.contains(&name.as_str()) {
            raised(py, found.credentials.set(&name, &secret_or_path(&value)?))?;
            continue;
        }
        let text = text(&name, &value)?;
        let set = match name.as_str() {
            "insecure" => parse_bool(&text).map(|value| found.insecure = value),
            "deadline" => parse_time(&text).map(|value| found.deadline = value),
            "max_connections" => text
                .parse()
                .map(|value| found.max_connections = value)
                .map_err(|_| invalid(format!("{text:?} is no number of connections"))),
            "protocol" => text.parse().map(|value| found.protocol = value),
            "compression" => text
                .parse()
                .map(|value| found.compression = value)
                .map_err(|failure: Error| failure.context("compression")),
            _ => Err(unknown(
                &name,
                &[Credentials::NAMES, &["insecure", "deadline", "max_connections", "protocol", "compression"]].concat(),
            )),
        };
        set.map_err(|failure| error::raise(py, failure))?;
    }
    Ok(found)
}

/// What to call when a seeder is asked to stop the app, and when it may go on.
#[derive(Default)]
pub struct Callbacks {
    pub on_suspend: Option<Py<PyAny>>,
    pub on_resume: Option<Py<PyAny>>,
}

/// Options of a seeder, and its callbacks.
pub fn seed(py: Python<'_>, options: Option<&Bound<'_, PyDict>>) -> PyResult<(SeedOptions, Callbacks)> {
    const KNOWN: [&str; 9] = [
        "name",
        "allow",
        "suspend_deadline",
        "cache_trust",
        "allow_legacy",
        "insecure",
        "deadline",
        "on_suspend",
        "on_resume",
    ];
    let (mut found, mut callbacks) = (SeedOptions::default(), Callbacks::default());
    for (name, value) in given(options)? {
        let callback = match name.as_str() {
            "on_suspend" => &mut callbacks.on_suspend,
            "on_resume" => &mut callbacks.on_resume,
            "allow" => {
                found.allow = value.extract()?;
                continue;
            }
            known if Credentials::NAMES.contains(&known) => {
                raised(py, found.credentials.set(known, &secret_or_path(&value)?))?;
                continue;
            }
            other => {
                let text = text(other, &value)?;
                let set = match other {
                    "name" => {
                        found.name = text;
                        Ok(())
                    }
                    "suspend_deadline" => parse_time(&text).map(|value| found.suspend_deadline = value),
                    "cache_trust" => parse_bool(&text).map(|value| found.cache_trust = value),
                    "allow_legacy" => parse_bool(&text).map(|value| found.allow_legacy = value),
                    "insecure" => parse_bool(&text).map(|value| found.insecure = value),
                    "deadline" => parse_time(&text).map(|value| found.deadline = value),
                    _ => Err(unknown(other, &[Credentials::NAMES, &KNOWN].concat())),
                };
                raised(py, set.map_err(|failure| failure.context(other)))?;
                continue;
            }
        };
        if !value.is_callable() {
            return Err(PyTypeError::new_err(format!("{name}: a function, not {}", type_of(&value)?)));
        }
        *callback = Some(value.unbind());
    }
    Ok((found, callbacks))
}

/// Options of an export.
pub fn export(read_only: bool, allow: Vec<String>) -> ExportOptions {
    ExportOptions { read_only, allow }
}

/// A token, or the path of a file.
fn secret_or_path(value: &Bound<'_, PyAny>) -> PyResult<String> {
    value.extract().or_else(|_| value.extract::<PathBuf>().map(|path| path.to_string_lossy().into_owned()))
}

fn flag(py: Python<'_>, name: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    parse_bool(&text(name, value)?).map_err(|failure| error::raise(py, failure.context(name)))
}

/// Ranges to pull first: `(offset, length)` or `(offset, length, priority)`, one or a list of them.
fn ranges(value: &Bound<'_, PyAny>) -> PyResult<Vec<PullRange>> {
    if value.is_instance_of::<PyTuple>() && value.get_item(0).is_ok_and(|first| first.is_instance_of::<PyInt>()) {
        return Ok(vec![range(value)?]);
    }
    value.try_iter()?.map(|one| range(&one?)).collect()
}

fn range(value: &Bound<'_, PyAny>) -> PyResult<PullRange> {
    if let Ok((offset, length)) = value.extract() {
        return Ok(PullRange { offset, length, priority: 0 });
    }
    let (offset, length, priority) = value
        .extract()
        .map_err(|_| PyTypeError::new_err("pull_range: (offset, length[, priority]), a list of them or a function"))?;
    Ok(PullRange { offset, length, priority })
}

/// Asks a function of the offset for the priority of each part of a region, at most 4096 of them, and joins neighbours
/// of one priority.
pub fn asked_ranges(priority: &Bound<'_, PyAny>, size: u64, chunk: u64) -> PyResult<Vec<PullRange>> {
    let step = (size / 4096).max(chunk).next_multiple_of(chunk);
    let mut found: Vec<PullRange> = Vec::new();
    let mut offset = 0;
    while offset < size {
        let length = step.min(size - offset);
        let asked: i32 = priority.call1((offset,))?.extract()?;
        match found.last_mut() {
            Some(last) if last.priority == asked => last.length += length,
            _ => found.push(PullRange { offset, length, priority: asked }),
        }
        offset += length;
    }
    Ok(found)
}

/// The text of a URL or name; other types are refused with what was wanted.
pub fn word(value: &Bound<'_, PyAny>, what: &str) -> PyResult<String> {
    match value.extract() {
        Ok(text) => Ok(text),
        Err(_) => Err(PyTypeError::new_err(format!("{what} is a string, not {}", type_of(value)?))),
    }
}

/// The core's result as Python's.
pub fn raised<T>(py: Python<'_>, outcome: Result<T>) -> PyResult<T> {
    outcome.map_err(|failure| error::raise(py, failure))
}
