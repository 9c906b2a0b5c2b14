//! The records of a writer's lease in S3: an object each, named by its epoch and created only if there is none of that
//! name (`If-None-Match: *`). The newest is the one with the highest number; those before it are removed.
//!
//! Who wakes up late may create an epoch that was removed long ago. So whoever created one looks whether there is a
//! later one, and counts for nothing if so: a later one stands before an earlier is removed.

use object_store::path::Path;
use object_store::{Error as StoreError, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::super::lease::{MOST_BYTES, Record, Records};
use super::{Chunks, errors, fetch, key, translate};
use crate::error::{Code, Error, Result};
use crate::wire::hexadecimal;

/// As many digits as any epoch needs, so that names are in the order of epochs.
const DIGITS: usize = 20;
/// How many create an object at once to find out whether one wins.
const RACERS: usize = 4;
/// How often a look is begun anew because the newest became an older one meanwhile.
const LOOKS: usize = 10;

impl Chunks {
    fn lease(&self, name: &str) -> Result<Path> {
        key(&format!("{}-lease/{name}", self.prefix))
    }

    fn record(&self, epoch: u64) -> Result<Path> {
        self.lease(&format!("{epoch:0DIGITS$}"))
    }

    /// The epochs that have an object.
    async fn epochs(&self) -> Result<Vec<u64>> {
        let folder = key(&format!("{}-lease", self.prefix))?;
        let listed = self.client.list_with_delimiter(Some(&folder)).await;
        let listed = listed.map_err(|error| translate(error, "list the records of the lease"))?;
        let epoch = |path: &Path| path.filename().filter(|name| name.len() == DIGITS)?.parse().ok();
        Ok(listed.objects.iter().filter_map(|object| epoch(&object.location)).collect())
    }

    /// Creates an object unless there is one of that name.
    async fn create_only(&self, path: &Path, text: String) -> Result<bool> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.client.put_opts(path, text.into(), options).await {
            Ok(_) => Ok(true),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(false),
            Err(error) if errors::is_not_implemented(&error) => Err(undecided()),
            Err(error) => Err(translate(error, "create a record of the lease")),
        }
    }

    /// Removes an object that is in nobody's way; the next writer would do it else.
    async fn remove(&self, path: &Path) {
        if let Err(error) = self.client.delete(path).await {
            tracing::debug!(%error, "{path} was not removed");
        }
    }
}

impl Records for Chunks {
    async fn newest(&self) -> Result<Option<Record>> {
        for _ in 0..LOOKS {
            let Some(epoch) = self.epochs().await?.into_iter().max() else { return Ok(None) };
            // No more than a record has is read of what somebody may have put there.
            let range = Some(object_store::GetRange::Bounded(0..MOST_BYTES as u64 + 1));
            match fetch(&self.client, &self.record(epoch)?, GetOptions { range, ..GetOptions::default() }).await {
                Ok((bytes, _)) => {
                    let record = Record::decode(&bytes)?;
                    if record.epoch != epoch {
                        return Err(Error::new(Code::Corrupt, "a record of the writer's lease has another's name"));
                    }
                    return Ok(Some(record));
                }
                Err(error) if errors::is_missing_object(&error) => continue,
                Err(error) => return Err(translate(error, "get the newest record of the lease")),
            }
        }
        Err(Error::new(Code::Busy, "the records of the lease change faster than they can be read"))
    }

    async fn replace(&self, _: Option<&Record>, next: &Record) -> Result<bool> {
        let path = self.record(next.epoch)?;
        if !self.create_only(&path, next.encode()).await? {
            return Ok(false);
        }
        let epochs = self.epochs().await?;
        if epochs.iter().any(|epoch| *epoch > next.epoch) {
            self.remove(&path).await;
            return Ok(false);
        }
        for epoch in epochs.into_iter().filter(|epoch| *epoch < next.epoch) {
            self.remove(&self.record(epoch)?).await;
        }
        Ok(true)
    }

    async fn probe(&self, held: &Record) -> Result<()> {
        // With what is there already, and where several come at once.
        if self.create_only(&self.record(held.epoch)?, held.encode()).await? {
            return Err(undecided());
        }
        let path = self.lease(&format!("probe-{}", hexadecimal(&held.holder)))?;
        let create = || self.create_only(&path, String::new());
        let raced: [Result<bool>; RACERS] = tokio::join!(create(), create(), create(), create()).into();
        self.remove(&path).await;
        let mut winners = 0;
        for won in raced {
            winners += usize::from(won?);
        }
        if winners == 1 { Ok(()) } else { Err(undecided()) }
    }
}

fn undecided() -> Error {
    let message = "this S3 server does not decide who creates an object first (If-None-Match: *), so nothing would keep \
                   two writers apart: use one that does, mount it read-only, or say lease=off and see to it that there \
                   is one writer";
    Error::new(Code::Unsupported, message)
}
