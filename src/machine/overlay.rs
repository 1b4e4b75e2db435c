//! Pending writes over a store: what an entry sees of itself before it is written.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::Fault;
use super::kv::{Kv, Order, Table, Visit, Write};

type Rows = BTreeMap<Vec<u8>, Option<Bytes>>;

/// A store with pending writes that reads see at once.
#[derive(Debug)]
pub struct Overlay<'k, K> {
    kv: &'k K,
    pending: [Rows; Table::ALL.len()],
    ranges: Vec<(Table, Vec<u8>, Vec<u8>)>,
}

impl<'k, K: Kv> Overlay<'k, K> {
    /// Nothing pending.
    pub fn new(kv: &'k K) -> Self {
        Self { kv, pending: std::array::from_fn(|_| Rows::new()), ranges: Vec::new() }
    }

    /// Sets a row.
    pub fn put(&mut self, table: Table, key: Vec<u8>, value: Bytes) {
        self.pending[table as usize].insert(key, Some(value));
    }

    /// Removes a row.
    pub fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.pending[table as usize].insert(key, None);
    }

    /// Removes all rows with `start <= key < end`, pending ones too.
    pub fn delete_range(&mut self, table: Table, start: Vec<u8>, end: Vec<u8>) {
        let bounds = (Bound::Included(start.clone()), Bound::Excluded(end.clone()));
        let covered: Vec<_> =
            self.pending[table as usize].range(bounds).map(|(k, _)| k.clone()).collect();
        for key in covered {
            self.pending[table as usize].remove(&key);
        }
        self.ranges.push((table, start, end));
    }

    /// All pending writes, ranges first.
    #[must_use]
    pub fn into_writes(self) -> Vec<Write> {
        let ranges = self.ranges.into_iter().map(|(t, s, e)| Write::DeleteRange(t, s, e));
        let rows = Table::ALL.into_iter().zip(self.pending).flat_map(|(table, rows)| {
            rows.into_iter().map(move |(key, value)| match value {
                Some(value) => Write::Put(table, key, value),
                None => Write::Delete(table, key),
            })
        });
        ranges.chain(rows).collect()
    }

    fn in_deleted_range(&self, table: Table, key: &[u8]) -> bool {
        self.ranges.iter().any(|(t, s, e)| *t == table && s.as_slice() <= key && key < e.as_slice())
    }
}

impl<K: Kv> Kv for Overlay<'_, K> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        if let Some(pending) = self.pending[table as usize].get(key) {
            return Ok(pending.clone());
        }
        if self.in_deleted_range(table, key) { Ok(None) } else { self.kv.get(table, key) }
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
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        let mut pending =
            Pending::new(self.pending[table as usize].range::<[u8], _>(bounds), order);
        let mut stopped = false;
        self.kv.scan(table, start, end, order, &mut |key, value| {
            // Pending rows that come first, and one that replaces this row.
            while let Some((pending_key, pending_value)) = pending.next_until(key) {
                if let Some(value) = pending_value
                    && visit(pending_key, value)?.is_break()
                {
                    stopped = true;
                    return Ok(ControlFlow::Break(()));
                }
                if pending_key == key {
                    return Ok(ControlFlow::Continue(()));
                }
            }
            if self.in_deleted_range(table, key) {
                return Ok(ControlFlow::Continue(()));
            }
            let flow = visit(key, value)?;
            stopped = flow.is_break();
            Ok(flow)
        })?;
        while !stopped && let Some((key, value)) = pending.next() {
            if let Some(value) = value {
                stopped = visit(key, value)?.is_break();
            }
        }
        Ok(())
    }
}

type Row<'p> = (&'p [u8], Option<&'p Bytes>);

/// Walks over pending rows in either direction, with a look ahead.
struct Pending<'p> {
    rows: Range<'p, Vec<u8>, Option<Bytes>>,
    order: Order,
    ahead: Option<Row<'p>>,
}

impl<'p> Pending<'p> {
    fn new(rows: Range<'p, Vec<u8>, Option<Bytes>>, order: Order) -> Self {
        let mut this = Self { rows, order, ahead: None };
        this.ahead = this.step();
        this
    }

    fn step(&mut self) -> Option<Row<'p>> {
        self.order.next(&mut self.rows).map(|(key, value)| (key.as_slice(), value.as_ref()))
    }

    fn next(&mut self) -> Option<Row<'p>> {
        let row = self.ahead.take();
        self.ahead = self.step();
        row
    }

    /// The next row when it comes before `key` or is at it.
    fn next_until(&mut self, key: &[u8]) -> Option<Row<'p>> {
        let (ahead, _) = self.ahead?;
        let due = match self.order {
            Order::Ascending => ahead <= key,
            Order::Descending => ahead >= key,
        };
        if due { self.next() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::mem::MemKv;

    fn rows(kv: &impl Kv, order: Order, limit: usize) -> Vec<(u8, u8)> {
        let mut rows = Vec::new();
        kv.scan(Table::Meta, &[0], &[200], order, &mut |k, v| {
            rows.push((k[0], v[0]));
            Ok(if rows.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .unwrap();
        rows
    }

    /// Reading through the overlay equals reading after the writes, whatever they are.
    #[test]
    fn reads_as_if_written() {
        let mut dice: u64 = 7;
        let mut roll = |bound: u64| {
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u8::try_from((dice >> 33) % bound).unwrap()
        };
        for _ in 0..500 {
            let mut kv = MemKv::default();
            for _ in 0..10 {
                kv.write(vec![Write::Put(Table::Meta, vec![roll(20)], vec![roll(250)].into())]);
            }
            let base = kv.clone();
            let mut overlay = Overlay::new(&base);
            for _ in 0..roll(15) {
                let key = roll(20);
                match roll(5) {
                    0 | 1 => overlay.put(Table::Meta, vec![key], vec![roll(250)].into()),
                    2 | 3 => overlay.delete(Table::Meta, vec![key]),
                    _ => overlay.delete_range(Table::Meta, vec![key], vec![key + 3]),
                }
            }
            let seen: Vec<_> = [Order::Ascending, Order::Descending]
                .iter()
                .flat_map(|o| [rows(&overlay, *o, 99), rows(&overlay, *o, 3)])
                .collect();
            let got: Vec<_> = (0..20).map(|k| overlay.get(Table::Meta, &[k]).unwrap()).collect();
            kv.write(overlay.into_writes());
            let written: Vec<_> = [Order::Ascending, Order::Descending]
                .iter()
                .flat_map(|o| [rows(&kv, *o, 99), rows(&kv, *o, 3)])
                .collect();
            assert_eq!(seen, written);
            assert_eq!(
                got,
                (0..20).map(|k| kv.get(Table::Meta, &[k]).unwrap()).collect::<Vec<_>>()
            );
        }
    }
}
