//! What is told of a panic: its place in the source. Its message may hold a cell's value.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;

thread_local! {
    /// Where this thread panicked last.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Replaces the standard library's report of a panic, which prints the message, for the whole process.
pub fn report_places_only() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        let thread = std::thread::current();
        tracing::error!(place, backtrace, thread = thread.name(), "panic");
        PLACE.set(Some(place));
    }));
}

/// Where this thread panicked last, if [`report_places_only`] is in force; asked once.
pub fn take_place() -> Option<String> {
    PLACE.take()
}
