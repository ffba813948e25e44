//! The upload of one object of unknown size in flat memory.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, Result};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Size of every part but the last: the least that S3 takes, and equal because R2 wants that.
const PART_BYTES: usize = 5 << 20;
/// Parts of one object on their way at the same time.
const PARTS_IN_FLIGHT: usize = 2;

/// Takes an object's bytes as they come. A small object is put in one request when it is
/// finished, a larger one goes up in parts; either way it appears whole or not at all.
pub(crate) struct Upload {
    store: Arc<dyn ObjectStore>,
    path: Path,
    pending: Vec<Bytes>,
    pending_bytes: usize,
    multipart: Option<Box<dyn MultipartUpload>>,
    parts: JoinSet<Result<()>>,
}

impl Upload {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, path: Path) -> Self {
        Self {
            store,
            path,
            pending: Vec::new(),
            pending_bytes: 0,
            multipart: None,
            parts: JoinSet::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that wait for a part to fill.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Bytes in parts that are on their way.
    pub(crate) fn bytes_in_flight(&self) -> usize {
        self.parts.len() * PART_BYTES
    }

    /// Takes more bytes, and sends the parts that they fill; waits while too many are on their way.
    pub(crate) async fn push(&mut self, bytes: Bytes) -> Result<()> {
        if !bytes.is_empty() {
            self.pending_bytes += bytes.len();
            self.pending.push(bytes);
        }
        while self.pending_bytes >= PART_BYTES {
            self.wait_below(PARTS_IN_FLIGHT).await?;
            let part = self.take(PART_BYTES);
            self.send(part).await?;
        }
        Ok(())
    }

    /// Waits until no part is on its way.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        self.wait_below(1).await
    }

    /// Completes the object. Where that fails, what was uploaded is given up.
    pub(crate) async fn finish(mut self) -> Result<()> {
        let finished = self.complete().await;
        if finished.is_err() {
            self.abort().await;
        }
        finished
    }

    async fn complete(&mut self) -> Result<()> {
        let rest = self.take(self.pending_bytes);
        if self.multipart.is_none() {
            return self.store.put(&self.path, rest).await.map(drop);
        }
        if rest.content_length() > 0 {
            self.send(rest).await?;
        }
        self.settle().await?;
        if let Some(multipart) = &mut self.multipart {
            multipart.complete().await?;
        }
        self.multipart = None;
        Ok(())
    }

    /// Gives up what was uploaded so far, as far as the store can be reached.
    pub(crate) async fn abort(mut self) {
        let parts = std::mem::take(&mut self.parts);
        if let Some(multipart) = self.multipart.take() {
            give_up(&self.path, parts, multipart).await;
        }
    }

    async fn send(&mut self, part: PutPayload) -> Result<()> {
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            none => none.insert(self.store.put_multipart(&self.path).await?),
        };
        let sent = multipart.put_part(part);
        self.parts.spawn(sent);
        Ok(())
    }

    async fn wait_below(&mut self, limit: usize) -> Result<()> {
        while self.parts.len() >= limit {
            if let Some(part) = self.parts.join_next().await {
                part??;
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: usize) -> PutPayload {
        let mut taken = Vec::new();
        let mut missing = bytes;
        let mut pending = std::mem::take(&mut self.pending).into_iter();
        for mut chunk in pending.by_ref() {
            if chunk.len() <= missing {
                missing -= chunk.len();
                taken.push(chunk);
            } else {
                if missing > 0 {
                    taken.push(chunk.split_to(missing));
                }
                self.pending.push(chunk);
                break;
            }
        }
        self.pending.extend(pending);
        self.pending_bytes -= bytes;
        taken.into_iter().collect()
    }
}

/// An upload that is dropped half-way, by an error or a cancelled run, is aborted as well: parts
/// of an incomplete upload are in no listing, and are paid for until someone aborts it.
impl Drop for Upload {
    fn drop(&mut self) {
        let (parts, path) = (std::mem::take(&mut self.parts), self.path.clone());
        if let Some(multipart) = self.multipart.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { give_up(&path, parts, multipart).await });
        }
    }
}

async fn give_up(path: &Path, mut parts: JoinSet<Result<()>>, mut multipart: Box<dyn MultipartUpload>) {
    parts.shutdown().await;
    if let Err(error) = multipart.abort().await {
        tracing::warn!(%path, %error, "cannot abort an upload");
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn objects_of_any_size_arrive_whole() {
        for sizes in [vec![], vec![3], vec![PART_BYTES], vec![7 << 20, 1, 6 << 20, 3 << 20]] {
            let store = Arc::new(InMemory::new());
            let mut upload = Upload::new(store.clone(), Path::from("x"));
            let mut expected = Vec::new();
            for (index, size) in sizes.into_iter().enumerate() {
                let chunk: Vec<u8> = (0..size).map(|byte| (byte + index) as u8).collect();
                expected.extend_from_slice(&chunk);
                upload.push(chunk.into()).await.unwrap();
                assert!(upload.pending_bytes() < PART_BYTES);
            }
            upload.finish().await.unwrap();
            let found = store.get(&Path::from("x")).await.unwrap().bytes().await.unwrap();
            assert!(found == expected);
        }
    }
}
