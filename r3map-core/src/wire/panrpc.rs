//! panrpc, the Go library's third protocol: a JSON object a line, which is a call or what came of one. Either side may
//! call. Pure functions of bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::error::{Code, Error, Result};

/// What a line has besides the bytes it carries, at most.
pub const AROUND: usize = 1 << 10;
/// The longest name of a call and the longest text of an error that is taken.
const MOST_NAME: usize = 256;
const MOST_TEXT: usize = 4 << 10;

/// The longest line that carries so many bytes.
pub const fn line_length(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4 + AROUND
}

/// What a line says.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// A function is called.
    Request {
        /// By which the answer knows it.
        call: String,
        /// Its name.
        function: String,
        /// What it is called with.
        args: Vec<Value>,
    },
    /// What came of a call: a value, or the text of an error.
    Response {
        /// Of which.
        call: String,
        /// What came.
        outcome: Result<Value, String>,
    },
}

impl Line {
    /// A line as it came.
    pub fn decode(line: &[u8]) -> Result<Line> {
        let value: Value = serde_json::from_slice(line).map_err(|_| corrupt("it is no JSON"))?;
        let Value::Object(mut parts) = value else { return Err(corrupt("it is no object")) };
        if let Some(Value::Object(mut request)) = parts.remove("request") {
            let (call, function) = (name(&mut request, "call")?, name(&mut request, "function")?);
            let args = match request.remove("args") {
                Some(Value::Array(args)) => args,
                None | Some(Value::Null) => Vec::new(),
                Some(_) => return Err(corrupt("its arguments are no list")),
            };
            return Ok(Line::Request { call, function, args });
        }
        let Some(Value::Object(mut response)) = parts.remove("response") else {
            return Err(corrupt("it is neither request nor response"));
        };
        let call = name(&mut response, "call")?;
        let outcome = match response.remove("err") {
            Some(Value::String(text)) if !text.is_empty() => Err(text.chars().take(MOST_TEXT).collect()),
            _ => Ok(response.remove("value").unwrap_or(Value::Null)),
        };
        Ok(Line::Response { call, outcome })
    }

    /// A line as it goes, its end with it.
    pub fn encode(self) -> Vec<u8> {
        let value = match self {
            Line::Request { call, function, args } => {
                json!({"request": {"call": call, "function": function, "args": args}, "response": null})
            }
            Line::Response { call, outcome } => {
                let (value, text) = match outcome {
                    Ok(value) => (value, String::new()),
                    Err(text) => (Value::Null, text),
                };
                json!({"request": null, "response": {"call": call, "value": value, "err": text}})
            }
        };
        let mut line = value.to_string().into_bytes();
        line.push(b'\n');
        line
    }
}

fn name(object: &mut serde_json::Map<String, Value>, key: &str) -> Result<String> {
    match object.remove(key) {
        Some(Value::String(name)) if name.len() <= MOST_NAME => Ok(name),
        _ => Err(corrupt("a call or function has no name")),
    }
}

/// Bytes as a value.
pub fn bytes(bytes: &[u8]) -> Value {
    Value::String(STANDARD.encode(bytes))
}

/// The bytes of a value; nothing is none.
pub fn bytes_of(value: Option<&Value>) -> Result<Vec<u8>> {
    match value {
        Some(Value::String(text)) => STANDARD.decode(text).map_err(|_| corrupt("bytes are no base64")),
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(_) => Err(corrupt("bytes are no text")),
    }
}

/// The whole number that a value is.
pub fn number_of(value: Option<&Value>) -> Result<i64> {
    value.and_then(Value::as_i64).ok_or_else(|| corrupt("a number is none"))
}

fn corrupt(why: &str) -> Error {
    Error::new(Code::Corrupt, format!("a line of panrpc was refused: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_go_library_are_understood_and_ours_are_like_them() {
        let asked = br#"{"request":{"call":"ID","function":"ReadAt","args":[12,65536]},"response":null}"#;
        let request = Line::decode(asked).unwrap();
        let args = vec![json!(12), json!(65536)];
        assert_eq!(request, Line::Request { call: "ID".into(), function: "ReadAt".into(), args });
        let said = br#"{"request":null,"response":{"call":"ID","value":{"N":12,"P":"AAEC"},"err":""}}"#;
        let Line::Response { call, outcome } = Line::decode(said).unwrap() else { panic!("no response") };
        let value = outcome.unwrap();
        assert_eq!((call.as_str(), number_of(value.get("N")).unwrap()), ("ID", 12));
        assert_eq!(bytes_of(value.get("P")).unwrap(), [0, 1, 2]);
        let failed = br#"{"request":null,"response":{"call":"ID","value":null,"err":"EOF"}}"#;
        assert_eq!(Line::decode(failed).unwrap(), Line::Response { call: "ID".into(), outcome: Err("EOF".into()) });
        for line in [&asked[..], said, failed] {
            let again = Line::decode(line).unwrap().encode();
            assert_eq!(again.last(), Some(&b'\n'));
            assert_eq!(Line::decode(&again).unwrap(), Line::decode(line).unwrap());
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        for line in [
            &b""[..],
            b"{",
            b"1",
            b"{}",
            b"\xff\xff",
            br#"{"request":{"call":1,"function":"ReadAt","args":[]}}"#,
            br#"{"request":{"call":"a","args":[]}}"#,
            br#"{"request":{"call":"a","function":"ReadAt","args":7}}"#,
            br#"{"response":{"value":1}}"#,
            &deep,
        ] {
            assert_eq!(Line::decode(line).unwrap_err().code(), Code::Corrupt);
        }
        assert!(bytes_of(Some(&json!("%%%"))).is_err() && bytes_of(Some(&json!(1))).is_err());
        assert!(number_of(Some(&json!(1.5))).is_err() && number_of(None).is_err());
    }
}
