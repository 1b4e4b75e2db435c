//! An ordered map as a store: for tests, models and simulation.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::Fault;
use super::kv::{Kv, Order, Table, Visit, Write};

/// Tables in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemKv {
    rows: BTreeMap<(Table, Vec<u8>), Bytes>,
}

impl MemKv {
    /// Applies writes at once, ranges first, as a database batch would.
    pub fn write(&mut self, writes: Vec<Write>) {
        for write in &writes {
            if let Write::DeleteRange(table, start, end) = write {
                self.rows.retain(|(t, k), _| t != table || k < start || k >= end);
            }
        }
        for write in writes {
            match write {
                Write::Put(table, key, value) => drop(self.rows.insert((table, key), value)),
                Write::Delete(table, key) => drop(self.rows.remove(&(table, key))),
                Write::DeleteRange(..) => {}
            }
        }
    }

    /// Number of rows in a table.
    #[must_use]
    pub fn rows(&self, table: Table) -> usize {
        self.rows.keys().filter(|(t, _)| *t == table).count()
    }
}

impl Kv for MemKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.rows.get(&(table, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        if start >= end {
            return Ok(());
        }
        let range =
            (Bound::Included((table, start.to_vec())), Bound::Excluded((table, end.to_vec())));
        let mut rows = self.rows.range(range);
        while let Some(((_, key), value)) = order.next(&mut rows) {
            if visit(key, value)? == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}
