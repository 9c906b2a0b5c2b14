//! What the library logs, on standard error: warnings unless `R3MAP_LOG` says otherwise.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Shows the library's log from now on, as lines of text or of JSON.
pub fn to_standard_error(json: bool) {
    let level = std::env::var("R3MAP_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::WARN);
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .event_format(Line { json })
        .init();
}

struct Line {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let mut message = String::new();
        context.format_fields(Writer::new(&mut message), event)?;
        if self.json {
            return writeln!(writer, "{}", serde_json::json!({"event": "log", "level": level, "message": message}));
        }
        writeln!(writer, "r3map: {level}: {message}")
    }
}
