//! The service Seeder, for leechers of the Go library.

use std::sync::Arc;

use once_cell::sync::OnceCell;
use prost::bytes::Bytes;
use tonic::{Request, Response, Status};

use super::Exported;
use crate::error::Error;
use crate::migration::seeder::legacy::Legacy;
use crate::wire::grpc;
use crate::wire::grpc::seeder::seeder_server::Seeder;
use crate::wire::grpc::seeder::{
    CloseArgs, CloseReply, ReadAtArgs, ReadAtReply, SyncArgs, SyncReply, TrackArgs, TrackReply,
};

/// The service for one connection. Clones are the same.
#[derive(Clone)]
pub struct Leeching {
    exported: Exported,
    /// From the first request on.
    legacy: Arc<OnceCell<Legacy>>,
}

impl Leeching {
    /// A connection on which nothing was asked yet.
    pub fn new(exported: Exported) -> Leeching {
        Leeching { exported, legacy: Arc::default() }
    }

    /// The connection is over.
    pub fn leave(&self) {
        if let Some(legacy) = self.legacy.get() {
            legacy.leave();
        }
    }

    fn legacy(&self) -> Result<&Legacy, Status> {
        self.exported.check()?;
        let begin = || self.exported.caller.seed().map(|seed| Legacy::new(seed.clone()));
        self.legacy.get_or_try_init(begin).map_err(failed)
    }
}

fn failed(error: Error) -> Status {
    grpc::status(&error)
}

#[tonic::async_trait]
impl Seeder for Leeching {
    async fn read_at(&self, request: Request<ReadAtArgs>) -> Result<Response<ReadAtReply>, Status> {
        let ReadAtArgs { length, off } = request.into_inner();
        let legacy = self.legacy()?;
        let offset = self.exported.caller.range(off, length.into()).map_err(failed)?;
        legacy.may_read(offset, length as u64).await.map_err(failed)?;
        let (read, taken) = self.exported.read(off, length).await?;
        let mut response = Response::new(ReadAtReply { n: read.len() as i32, p: Bytes::from_owner(read) });
        response.extensions_mut().insert(taken);
        Ok(response)
    }

    async fn track(&self, _: Request<TrackArgs>) -> Result<Response<TrackReply>, Status> {
        self.legacy()?.track().await.map_err(failed)?;
        Ok(Response::new(TrackReply {}))
    }

    async fn sync(&self, request: Request<SyncArgs>) -> Result<Response<SyncReply>, Status> {
        let block = match request.metadata().get(grpc::BLOCK) {
            None => None,
            Some(said) => {
                let block = said.to_str().ok().and_then(|said| said.parse().ok()).filter(|block| *block > 0);
                let wrong = || Status::invalid_argument(format!("{}: {said:?} is no number of bytes", grpc::BLOCK));
                Some(block.ok_or_else(wrong)?)
            }
        };
        let dirty_offsets = self.legacy()?.sync(block).await.map_err(failed)?;
        Ok(Response::new(SyncReply { dirty_offsets }))
    }

    async fn close(&self, _: Request<CloseArgs>) -> Result<Response<CloseReply>, Status> {
        self.legacy()?.close().await.map_err(failed)?;
        Ok(Response::new(CloseReply {}))
    }
}
