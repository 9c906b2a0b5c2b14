//! The record of the writer's lease: a row beside the chunks, changed by lightweight transactions alone.

use bytes::Bytes;
use scylla::response::query_result::QueryResult;
use scylla::value::{CqlValue, Row};

use super::super::lease::{Record, Records};
use super::{Cassandra, errors, row_of};
use crate::error::Result;

/// What stands where chunks have their offset.
const KEY: &str = "r3map-lease";

impl Cassandra {
    fn told_of_record<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| error.context(format_args!("the row {:?} of the writer's lease", self.key(KEY))))
    }

    async fn ask_to_replace(&self, old: Option<&Record>, next: &Record) -> Result<bool> {
        let next = Bytes::from(next.encode());
        let answer = match old {
            None => self.cluster.ask(|connected| (&connected.claim, (self.key_at(connected, KEY), next))).await?,
            Some(old) => {
                let old = Bytes::from(old.encode());
                self.cluster.ask(|connected| (&connected.replace, (next, self.key_at(connected, KEY), old))).await?
            }
        };
        was_applied(answer)
    }
}

/// What the answer to a statement with a condition says first.
fn was_applied(answer: QueryResult) -> Result<bool> {
    let rows = answer.into_rows_result().map_err(errors::of_answer)?;
    let row: Row = rows.first_row().map_err(errors::of_answer)?;
    match row.columns.first() {
        Some(Some(CqlValue::Boolean(applied))) => Ok(*applied),
        _ => Err(errors::of_answer("it does not say whether it was applied")),
    }
}

impl Records for Cassandra {
    async fn newest(&self) -> Result<Option<Record>> {
        let asked = self.cluster.ask(|connected| (&connected.look, (self.key_at(connected, KEY),))).await;
        let Some((bytes, written)) = self.told_of_record(asked.and_then(row_of))? else { return Ok(None) };
        // The servers' time: what is written from here on is later than this record.
        self.cluster.clock.saw(written.unwrap_or(0));
        self.told_of_record(bytes.map(|bytes| Record::decode(&bytes)).transpose())
    }

    async fn replace(&self, old: Option<&Record>, next: &Record) -> Result<bool> {
        self.told_of_record(self.ask_to_replace(old, next).await)
    }
}
