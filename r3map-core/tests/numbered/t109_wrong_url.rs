use super::*;

#[test]
fn a_wrong_url_is_refused_with_what_is_wrong_with_it() {
    for (url, code, text) in [
        ("fiel:///x", Code::InvalidArgument, "unknown scheme \"fiel\"; did you mean \"file\"?"),
        ("memory:?sice=1", Code::InvalidArgument, "unknown parameter \"sice\"; did you mean \"size\"?"),
        ("memory:?size=-1", Code::InvalidArgument, "size"),
        ("/etc/passwd", Code::InvalidArgument, "is not a URL"),
        ("", Code::InvalidArgument, "URL"),
        ("file:///does/not/exist", Code::NotFound, "/does/not/exist"),
    ] {
        fails(open(url), code, text);
    }
}
