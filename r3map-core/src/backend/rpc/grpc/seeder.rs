//! The service Seeder of a server of the Go library: one connection, on which the region is asked for once and never again,
//! since a second answer says less than the first.

use std::sync::Arc;

use tonic::Status;
use tonic::codegen::http;

use super::{Dial, Link, Speech, check_read};
use crate::backend::rpc::link::{Speaker, Watch};
use crate::backend::rpc::{Answer, Call, Wire};
use crate::backend::{Priority, Reply};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::wire::grpc::BLOCK;
use crate::wire::grpc::seeder::seeder_client::SeederClient;
use crate::wire::grpc::seeder::{CloseArgs, ReadAtArgs, SyncArgs, TrackArgs};

/// The longest list of what is dirty, in bytes: 3 million blocks and more.
const MOST_DIRTY: usize = 16 << 20;

/// A client of the service.
pub struct Seeder {
    link: Link<Speech>,
    origin: http::Uri,
    most: usize,
}

/// What came of asking for the region.
pub enum Synced {
    /// It was given; what was written since tracking began is in the blocks that begin there.
    Given(Vec<i64>),
    /// The server said no, and goes on tracking.
    Refused(Error),
    /// Nobody knows, or nobody tracks any more.
    Unknown(Error),
}

impl Seeder {
    /// A client that connects when it is first used; no message it takes is longer than `most`, but for what is dirty.
    pub fn new(dial: Dial, watch: Arc<dyn Watch>, most: usize) -> Seeder {
        let origin = super::origin(&dial);
        Seeder { link: Link::new(dial, Some(watch), most), origin, most }
    }

    async fn client(&self, most: usize) -> Result<(SeederClient<Speech>, Speech, u64)> {
        let (speech, number) = self.link.speaker().await?;
        let client = SeederClient::with_origin(speech.clone(), self.origin.clone());
        Ok((client.max_decoding_message_size(most), speech, number))
    }

    /// Connects, and finds out whether such a server is there.
    pub async fn greet(&self) -> Result<()> {
        let (mut client, speech, _) = self.client(self.most).await?;
        match client.read_at(ReadAtArgs { length: 0, off: 0 }).await {
            Err(status)
                if speech.is_over()
                    || matches!(status.code(), tonic::Code::Unimplemented | tonic::Code::Unavailable) =>
            {
                Err(speech.failed(&status))
            }
            // It may be that nothing is read before it is tracked.
            _ => Ok(()),
        }
    }

    /// Has what is written remembered; the number of the connection that asked.
    pub async fn track(&self) -> Result<u64> {
        let (mut client, speech, number) = self.client(self.most).await?;
        client.track(TrackArgs {}).await.map(|_| number).map_err(|status| speech.failed(&status))
    }

    /// Asks for the region on the connection of that number, and on no other; a server that can hears that blocks are
    /// that long.
    pub async fn sync(&self, tracked: u64, block: u64) -> Synced {
        let (mut client, speech, number) = match self.client(MOST_DIRTY).await {
            Ok(client) => client,
            Err(error) => return Synced::Unknown(error),
        };
        if number != tracked {
            return Synced::Unknown(Error::new(Code::Disconnected, "the connection that tracked was lost before"));
        }
        let refused = |status: &Status| matches!(status.code(), tonic::Code::Unknown | tonic::Code::Aborted);
        let mut asked = tonic::Request::new(SyncArgs {});
        asked.metadata_mut().insert(BLOCK, block.into());
        match client.sync(asked).await {
            Ok(reply) => Synced::Given(reply.into_inner().dirty_offsets),
            Err(status) if refused(&status) && !speech.is_over() => Synced::Refused(speech.failed(&status)),
            Err(status) => Synced::Unknown(speech.failed(&status)),
        }
    }

    /// Says that nothing more is wanted.
    pub async fn close(&self) -> Result<()> {
        let (mut client, speech, _) = self.client(self.most).await?;
        client.close(CloseArgs {}).await.map(drop).map_err(|status| speech.failed(&status))
    }

    /// Ends the connection.
    pub async fn end(&self) {
        self.link.end().await;
    }

    async fn ask(&self, call: Call) -> Result<(Reply, u64)> {
        let Call::Read { offset, length } = call else {
            return Err(Error::new(Code::ReadOnly, "what is seeded is not written by its leecher"));
        };
        let (mut client, speech, number) = self.client(self.most).await?;
        let asked = ReadAtArgs { length: length as i32, off: offset as i64 };
        let reply = client.read_at(asked).await.map_err(|status| speech.failed(&status))?.into_inner();
        check_read(length, reply.n.into(), reply.p.len())?;
        Ok((Reply::Data(Buffer::copy_of(&reply.p)), number))
    }
}

impl Wire for Arc<Seeder> {
    fn call(&self, call: Call, _: Priority) -> Answer<'_> {
        Box::pin(self.ask(call))
    }
}
