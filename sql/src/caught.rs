//! Panics of DataFusion's and Arrow's kernels on values that they did not foresee.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

static HOOK: Once = Once::new();

/// The result of `work`, or `None` if it panicked. Nothing is printed about such a panic,
/// because its message can quote a cell's value.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    HOOK.call_once(|| {
        let known = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                known(panic);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.set(outer);
    outcome.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_outcome() {
        assert_eq!(caught(|| 1), Some(1));
        assert_eq!(caught(|| -> i32 { panic!("a value") }), None);
        assert_eq!(caught(|| caught(|| panic!("within")).is_none()), Some(true));
    }
}
