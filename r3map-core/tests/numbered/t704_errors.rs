use super::*;

#[test]
fn errors_have_code_errno_message_and_retryable() {
    let retryable = [Code::Busy, Code::Timeout, Code::Disconnected, Code::Suspended];
    for code in Code::ALL {
        let error = r3map_core::Error::new(code, "why");
        assert_eq!((error.code(), error.message()), (code, "why"));
        assert_ne!(error.errno(), 0, "{}", code.name());
        assert_eq!(error.is_retryable(), retryable.contains(&code), "{}", code.name());
    }
}
