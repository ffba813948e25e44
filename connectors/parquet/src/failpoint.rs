//! Named places in the commit path at which tests make the sink fail or die.

/// Every failpoint of this crate, in the order in which a commit passes them. Each takes
/// `return` (an `Unavailable` error), `return(kill)` (the process ends at once) and the actions of the `fail` crate, such as `panic`.
/// They are compiled to nothing unless the feature `failpoints` is on.
pub const FAILPOINTS: &[&str] = &[
    "parquet::after-open",
    "parquet::before-sweep",
    "parquet::before-prepare",
    "parquet::after-upload",
    "parquet::before-commit",
    "parquet::after-commit",
];

/// Passes the failpoint `name`, which must be one of [`FAILPOINTS`].
#[cfg_attr(
    not(feature = "failpoints"),
    expect(unused_variables, reason = "the failpoint is compiled to nothing")
)]
pub(crate) fn pass(name: &'static str) -> millstream_core::Result<()> {
    fail::fail_point!(name, |argument| {
        if argument.as_deref() == Some("kill") {
            kill_own_process();
        }
        let error = millstream_core::Error::new(millstream_core::ErrorKind::Unavailable, "failpoint");
        Err(error.with("failpoint", name))
    });
    Ok(())
}

/// Ends the process as `kill -9` does: nothing is flushed, closed or dropped.
#[cfg(feature = "failpoints")]
fn kill_own_process() {
    let own = std::process::id().to_string();
    while std::process::Command::new("kill").args(["-9", &own]).status().is_ok() {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}
