//! How a client packs what it sends, and counts what travels.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::client::Client;
use crate::backend::link::Link;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::options::Compression;
use crate::stats::Traffic;
use crate::wire::Header;
use crate::wire::channel::{Channel, Packet, Payload};
use crate::wire::compress::{self, EAGER, Packer, Packing};

/// What all connections of a client have in common of this.
pub struct Parcels {
    /// The features that are offered.
    offers: u64,
    packer: Packer,
    /// Which features the server had when it was last greeted.
    agreed: AtomicU64,
    traffic: Arc<Traffic>,
}

/// The bytes of a write, kept to be sent again.
pub struct Parcel {
    data: Arc<Buffer>,
    /// The same as fewer, with their CRC, for a server that knows how; others get them as they are.
    packed: Option<(Packing, Arc<Buffer>, u32)>,
}

impl Parcels {
    /// Fails where this build lacks what is asked for.
    pub fn new(compression: Compression) -> Result<Parcels> {
        let offers = compress::features(compression)?;
        let packer = Packer::new(offers & EAGER != 0);
        Ok(Parcels { offers, packer, agreed: AtomicU64::new(0), traffic: Arc::default() })
    }

    /// The features that a HELLO offers.
    pub fn offers(&self) -> u64 {
        self.offers
    }

    /// There is another connection.
    pub fn greeted(&self, channel: &Channel) {
        channel.count_into(&self.traffic);
        self.agreed.store(channel.features(), Ordering::Relaxed);
    }

    /// How many bytes were sent and received.
    pub fn traffic(&self) -> (u64, u64) {
        (self.traffic.sent.get(), self.traffic.received.get())
    }

    /// Makes the bytes ready that go by this link. That takes its time, so nobody's lock is held.
    pub fn pack(&self, data: Buffer, link: &Link<Client>) -> Parcel {
        let channel = link.channel();
        // Where there is no connection at this moment there will be one like the last.
        let features =
            channel.as_ref().map_or_else(|| self.agreed.load(Ordering::Relaxed), |channel| channel.features());
        let packed = self.packer.pack(&data, features, || channel.as_ref().and_then(|channel| channel.rate()));
        let packed = packed.map(|packed| {
            let crc = crc32c::crc32c(&packed.bytes);
            (packed.packing, Arc::new(packed.bytes), crc)
        });
        Parcel { data: Arc::new(data), packed }
    }
}

impl Parcel {
    /// The frame for a connection with these features; the header knows the bytes' length and CRC as they are.
    pub fn packet(&self, header: Header, features: u64) -> Packet {
        match &self.packed {
            Some((packing, bytes, crc)) if features & packing.feature() != 0 => {
                let header = header.with_packed(*packing, bytes.len(), *crc, header.payload_crc);
                Packet::ready(header, Payload::Shared(bytes.clone()))
            }
            _ => Packet::ready(header, Payload::Shared(self.data.clone())),
        }
    }
}
