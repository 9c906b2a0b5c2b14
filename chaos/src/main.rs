//! `r3map-chaos TARGET [--listen ADDRESS] [--rtt 30ms] [--jitter 1ms] [--rate 1Gbit] [--window BYTES] [--seed N]`
//!
//! Prints the address at which it listens, and passes bytes until its standard input ends.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use r3map_chaos::{Conditions, Network};

fn main() -> ExitCode {
    match start(std::env::args().skip(1)) {
        Ok(network) => {
            println!("{}", network.address());
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("r3map-chaos: {message}");
            ExitCode::FAILURE
        }
    }
}

fn start(mut words: impl Iterator<Item = String>) -> Result<Network, String> {
    let target = words.next().ok_or("say which address is to be reached: host:port or unix:/path")?;
    let mut conditions = Conditions::default();
    let mut listen = None;
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let wrong = || format!("{word}: {value:?} makes no sense");
        match word.as_str() {
            "--listen" => listen = Some(value),
            "--rtt" => conditions.delay = milliseconds(&value).ok_or_else(wrong)? / 2,
            "--jitter" => conditions.jitter = milliseconds(&value).ok_or_else(wrong)?,
            "--rate" => conditions.bytes_per_second = Some(rate(&value).ok_or_else(wrong)?),
            "--window" => conditions.window = Some(value.parse().map_err(|_| wrong())?),
            "--seed" => conditions.seed = value.parse().map_err(|_| wrong())?,
            _ => return Err(format!("{word} is no option")),
        }
    }
    let network = match listen {
        Some(listen) => Network::between(&listen, &target, conditions),
        None => Network::to(&target, conditions),
    };
    network.map_err(|error| format!("{target}: {error}"))
}

fn milliseconds(text: &str) -> Option<Duration> {
    let number: f64 = text.trim_end_matches("ms").parse().ok()?;
    Duration::try_from_secs_f64(number / 1e3).ok()
}

/// Bits a second as `1Gbit` or `100Mbit`, in bytes.
fn rate(text: &str) -> Option<u64> {
    let (number, unit) = match (text.strip_suffix("Gbit"), text.strip_suffix("Mbit")) {
        (Some(number), _) => (number, 1e9),
        (_, Some(number)) => (number, 1e6),
        _ => return None,
    };
    let bits = number.parse::<f64>().ok()? * unit;
    (bits >= 8.0).then_some((bits / 8.0) as u64)
}
