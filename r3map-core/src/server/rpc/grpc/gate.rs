//! Who the clients of a connection are: by the certificate with which TLS began, or by the token of each request, since a
//! proxy may bring those of many clients over one connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tonic::Status;
use tonic::codegen::http::{HeaderMap, HeaderValue};

use super::GREETING_TIME;
use crate::error::{Code, Error, Result};
use crate::server::Guest;
use crate::server::caller::Caller as Who;
use crate::server::rpc::Caller;
use crate::tls::server::ServerTls;
use crate::wire::channel::Channel;
use crate::wire::grpc;

/// How a token begins.
const BEARER: &[u8] = b"Bearer ";

/// Lets those in who are known.
pub struct Gate {
    channel: Arc<Channel>,
    caller: Arc<Caller>,
    tls: Option<Arc<ServerTls>>,
    /// Who the connection is.
    who: Who,
    /// Whether somebody was let in.
    opened: AtomicBool,
    /// The last token that was known, and whose it is.
    last: Mutex<Option<(HeaderValue, Who)>>,
}

impl Gate {
    /// Waits for a client's first bytes, and where TLS is spoken for its certificate, which it may not have.
    pub fn new(guest: &Guest, caller: &Arc<Caller>) -> Result<Gate> {
        let (channel, deadline) = (&guest.channel, Instant::now() + GREETING_TIME);
        let who = match &guest.tls {
            None => channel.wait(true, Some(deadline)).map(|()| Who::Anyone)?,
            Some(tls) => tls.begin(channel, deadline)?,
        };
        let (channel, caller, tls) = (channel.clone(), caller.clone(), guest.tls.clone());
        let opened = AtomicBool::new(who != Who::Unknown);
        Ok(Gate { channel, caller, tls, who, opened, last: Mutex::default() })
    }

    /// Whether a client of this connection is known.
    pub fn is_opened(&self) -> bool {
        self.opened.load(Ordering::SeqCst)
    }

    /// Refuses a request unless it is known whose it is, and the export is for them.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Status> {
        let checked = self.who_asks(headers).and_then(|who| self.caller.check(&who));
        checked.map_err(|error| grpc::status(&error))?;
        if !self.opened.swap(true, Ordering::SeqCst) {
            self.channel.wake();
        }
        Ok(())
    }

    fn who_asks(&self, headers: &HeaderMap) -> Result<Who> {
        let Some(tls) = &self.tls else { return Ok(self.who.clone()) };
        let Some(shown) = headers.get("authorization") else {
            return match &self.who {
                Who::Unknown => Err(Error::new(Code::NotAuthenticated, tls.demands())),
                who => Ok(who.clone()),
            };
        };
        let mut last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, who)) = last.as_ref().filter(|(known, _)| known == shown) {
            return Ok(who.clone());
        }
        let malformed = || Error::new(Code::NotAuthenticated, "authorization is no \"Bearer TOKEN\"");
        let token = shown.as_bytes().strip_prefix(BEARER).ok_or_else(malformed)?;
        let who = self.who.clone().and(tls.know(token)?);
        *last = Some((shown.clone(), who.clone()));
        Ok(who)
    }
}
