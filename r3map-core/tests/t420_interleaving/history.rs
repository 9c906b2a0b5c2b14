//! What each cell of the region may read as, by the writes that were begun and acknowledged.

use std::ops::Range;
use std::sync::Mutex;

/// A write of one value to one cell, in ticks of the history's clock.
struct Write {
    value: u8,
    begun: u64,
    /// `u64::MAX` while it is under way, and for ever if it failed: then it may have happened or not.
    acknowledged: u64,
}

#[derive(Default)]
struct Log {
    clock: u64,
    cells: Vec<Vec<Write>>,
}

/// Every write so far. Its lock is never held where another thread may come between.
pub struct History(Mutex<Log>);

/// A write under way.
pub struct Begun {
    cells: Range<usize>,
    begun: u64,
}

impl History {
    /// Cells that begin with these values.
    pub fn new(values: impl Iterator<Item = u8>) -> History {
        let cells = values.map(|value| vec![Write { value, begun: 0, acknowledged: 0 }]).collect();
        History(Mutex::new(Log { clock: 0, cells }))
    }

    /// This moment.
    pub fn now(&self) -> u64 {
        let mut log = self.0.lock().unwrap();
        log.clock += 1;
        log.clock
    }

    /// A write begins: from now on its value may be read.
    pub fn begin(&self, cells: Range<usize>, value: u8) -> Begun {
        let begun = self.now();
        for cell in &mut self.0.lock().unwrap().cells[cells.clone()] {
            cell.push(Write { value, begun, acknowledged: u64::MAX });
        }
        Begun { cells, begun }
    }

    /// It was acknowledged: older values may not be read by who begins to read from now on.
    pub fn acknowledge(&self, write: Begun) {
        let acknowledged = self.now();
        for cell in &mut self.0.lock().unwrap().cells[write.cells] {
            cell.iter_mut().filter(|w| w.begun == write.begun).for_each(|w| w.acknowledged = acknowledged);
        }
    }

    /// Whether who began to look at `since` may see `value`: a write of it is not followed by another that was
    /// acknowledged before.
    pub fn allows(&self, cell: usize, value: u8, since: u64) -> bool {
        let writes = &self.0.lock().unwrap().cells[cell];
        let overwritten = |w: &Write| writes.iter().any(|o| o.begun > w.acknowledged && o.acknowledged <= since);
        writes.iter().any(|w| w.value == value && !overwritten(w))
    }

    /// The writes of a cell, for the message of a failure.
    pub fn tell(&self, cell: usize) -> String {
        let tell = |w: &Write| match w.acknowledged {
            u64::MAX => format!("{} from {}", w.value, w.begun),
            acknowledged => format!("{} from {} to {acknowledged}", w.value, w.begun),
        };
        self.0.lock().unwrap().cells[cell].iter().map(tell).collect::<Vec<_>>().join(", ")
    }
}
