//! Who is at the other end of a connection, as far as that was proved.

use crate::error::{Code, Error, Result};

/// Who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Whoever can reach the socket may use it; nothing is known of them.
    Anyone,
    /// A client that has to prove who it is and has not yet.
    Unknown,
    /// A client that is known by these names.
    #[cfg_attr(not(feature = "tls"), expect(dead_code))]
    Known(Vec<String>),
}

impl Caller {
    /// The same client, of whom more was proved.
    pub fn and(self, more: Caller) -> Caller {
        match (self, more) {
            (Caller::Known(names), Caller::Known(more)) => Caller::Known([names, more].concat()),
            (_, more) => more,
        }
    }

    /// An error unless an export that is for these names, or for all where there are none, is for this client.
    pub fn check(&self, name: &str, allow: &[String]) -> Result<()> {
        let known = match self {
            Caller::Known(names) => names.iter().any(|name| allow.contains(name)),
            Caller::Anyone | Caller::Unknown => false,
        };
        if *self != Caller::Unknown && (allow.is_empty() || known) {
            return Ok(());
        }
        Err(Error::new(Code::PermissionDenied, format!("export {name:?} is not for this client")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_for_all_who_are_let_in_or_for_those_who_are_named() {
        let ann = Caller::Known(vec!["ann".to_owned(), "ann.example".to_owned()]);
        let names = ["ben".to_owned(), "ann.example".to_owned()];
        ann.check("x", &[]).unwrap();
        ann.check("x", &names).unwrap();
        assert!(ann.check("x", &names[..1]).is_err());
        Caller::Anyone.check("x", &[]).unwrap();
        assert!(Caller::Anyone.check("x", &names).is_err());
        assert!(Caller::Unknown.check("x", &[]).is_err());
    }
}
