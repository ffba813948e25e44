//! Backpressure by bytes: permits that ride in the batches they stand for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many bytes of decoded batches may be in flight in one pipeline.
///
/// Counted in KiB, because a semaphore's permits are limited to 32 bits in one request.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    semaphore: Arc<Semaphore>,
    kib: u32,
}

/// A share of a [`ByteBudget`], given back when the last batch that holds it is dropped.
#[derive(Debug, Clone)]
pub struct BytePermit(#[expect(dead_code, reason = "held for its Drop")] Arc<OwnedSemaphorePermit>);

impl ByteBudget {
    /// A budget of `bytes`, at least 1 KiB.
    pub fn new(bytes: u64) -> Self {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).max(1);
        Self {
            semaphore: Arc::new(Semaphore::new(kib as usize)),
            kib,
        }
    }

    /// Waits for room for `bytes`. A batch larger than the whole budget waits until nothing
    /// else is in flight, so that it passes alone rather than never.
    ///
    /// Cancel safe: a dropped call takes nothing.
    pub async fn acquire(&self, bytes: usize) -> BytePermit {
        let wanted = u32::try_from(bytes.div_ceil(1024))
            .unwrap_or(u32::MAX)
            .clamp(1, self.kib);
        let permit = self.semaphore.clone().acquire_many_owned(wanted).await;
        BytePermit(Arc::new(permit.expect("the budget's semaphore is never closed")))
    }

    /// Bytes that are free now.
    pub fn available(&self) -> u64 {
        self.semaphore.available_permits() as u64 * 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_larger_than_the_budget_passes_alone() {
        let budget = ByteBudget::new(4096);
        let whole = budget.acquire(1 << 20).await;
        assert_eq!(budget.available(), 0);
        drop(whole);
        assert_eq!(budget.available(), 4096);
    }
}
