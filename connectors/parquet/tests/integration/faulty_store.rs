//! An object store that answers the creation of commit records as a script says.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::sync::oneshot;

/// What happens to the creation of one commit record.
#[derive(Debug, Clone)]
pub enum Fate {
    /// It works.
    Works,
    /// The request is lost.
    LostBefore,
    /// It takes effect, and the answer is lost.
    LostAfter,
    /// It takes effect, the answer is lost, and the client's own retry meets the object.
    MetItself,
    /// It takes effect without an answer, and the client's own retry is refused.
    TakenThenDenied,
    /// It takes effect, the answer is lost, and the next read of a record is cut short.
    TornReadBack,
    /// The store reports a conflict with a creation that then fails: there is no object.
    Conflict,
    /// Another writer's record comes first.
    Overtaken(&'static str),
    /// Refused for lack of permission.
    Denied,
}

/// See the module. Everything else goes to the store below.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    fates: Mutex<VecDeque<Fate>>,
    /// The next read of a commit record gets half of it.
    tears: AtomicBool,
    refuses_reads: AtomicBool,
    /// The next listing of data files waits for this.
    gate: Mutex<Option<oneshot::Receiver<()>>>,
    /// Takes `PutMode::Create` for an overwrite.
    pub forgets_conditions: bool,
    /// After so many creations, looks for the object, lets others go on, and then writes.
    pub checks_then_writes_from: Option<usize>,
    creations: AtomicUsize,
    /// Uploads in parts that were neither completed nor aborted.
    pub unfinished_uploads: Arc<AtomicUsize>,
    /// Parts of uploads that work; those after them fail.
    pub parts_left: Arc<AtomicUsize>,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            fates: Mutex::default(),
            tears: AtomicBool::default(),
            refuses_reads: AtomicBool::default(),
            gate: Mutex::default(),
            forgets_conditions: false,
            checks_then_writes_from: None,
            creations: AtomicUsize::default(),
            unfinished_uploads: Arc::default(),
            parts_left: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }

    /// What happens to the next creations; those after them work.
    pub fn script(&self, fates: impl IntoIterator<Item = Fate>) {
        self.fates.lock().unwrap().extend(fates);
    }

    /// Whether the whole script was played.
    pub fn is_played(&self) -> bool {
        self.fates.lock().unwrap().is_empty()
    }

    /// Refuses all reads of commit records, or allows them again.
    pub fn refuse_reads(&self, refuse: bool) {
        self.refuses_reads.store(refuse, Ordering::Relaxed);
    }

    /// Makes the next listing of data files wait until the sender is used.
    pub fn hold_listing(&self) -> oneshot::Sender<()> {
        let (open, gate) = oneshot::channel();
        *self.gate.lock().unwrap() = Some(gate);
        open
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

fn lost() -> Error {
    Error::Generic {
        store: "faulty",
        source: Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
    }
}

fn exists(path: &Path) -> Error {
    Error::AlreadyExists {
        path: path.to_string(),
        source: "409".into(),
    }
}

fn denied(path: &Path) -> Error {
    Error::PermissionDenied {
        path: path.to_string(),
        source: "403".into(),
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        if self.forgets_conditions && matches!(options.mode, PutMode::Create) {
            options.mode = PutMode::Overwrite;
        }
        if matches!(options.mode, PutMode::Create)
            && let Some(from) = self.checks_then_writes_from
            && self.creations.fetch_add(1, Ordering::Relaxed) >= from
        {
            if self.inner.head(path).await.is_ok() {
                return Err(exists(path));
            }
            tokio::task::yield_now().await;
            options.mode = PutMode::Overwrite;
        }
        let creation = matches!(options.mode, PutMode::Create) && path.as_ref().contains("/_commits/");
        let fate = if creation {
            self.fates.lock().unwrap().pop_front().unwrap_or(Fate::Works)
        } else {
            Fate::Works
        };
        match fate {
            Fate::Works => self.inner.put_opts(path, payload, options).await,
            Fate::LostBefore => Err(lost()),
            Fate::LostAfter => {
                self.inner.put_opts(path, payload, options).await?;
                Err(lost())
            }
            Fate::MetItself => {
                self.inner.put_opts(path, payload, options).await?;
                Err(exists(path))
            }
            Fate::TakenThenDenied => {
                self.inner.put_opts(path, payload, options).await?;
                Err(denied(path))
            }
            Fate::TornReadBack => {
                self.inner.put_opts(path, payload, options).await?;
                self.tears.store(true, Ordering::Relaxed);
                Err(lost())
            }
            Fate::Conflict => Err(exists(path)),
            Fate::Overtaken(json) => {
                self.inner.put(path, json.into()).await?;
                self.inner.put_opts(path, payload, options).await
            }
            Fate::Denied => Err(denied(path)),
        }
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(path, options).await?;
        self.unfinished_uploads.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(FaultyUpload {
            inner,
            unfinished: self.unfinished_uploads.clone(),
            parts_left: self.parts_left.clone(),
        }))
    }

    async fn get_opts(&self, path: &Path, mut options: GetOptions) -> Result<GetResult> {
        if path.as_ref().contains("/_commits/") && self.refuses_reads.load(Ordering::Relaxed) {
            return Err(denied(path));
        }
        if path.as_ref().contains("/_commits/") && self.tears.swap(false, Ordering::Relaxed) {
            options.range = Some(GetRange::Bounded(0..100));
        }
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let data = prefix.is_some_and(|prefix| prefix.as_ref().ends_with("/data"));
        let gate = data.then(|| self.gate.lock().unwrap().take()).flatten();
        let (inner, prefix) = (self.inner.clone(), prefix.cloned());
        let listing = async move {
            if let Some(gate) = gate {
                gate.await.expect("the test opens the gate");
            }
            Ok::<_, Error>(inner.list(prefix.as_ref()))
        };
        futures::stream::once(listing).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    unfinished: Arc<AtomicUsize>,
    parts_left: Arc<AtomicUsize>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let take = |left: usize| left.checked_sub(1);
        match self.parts_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => self.inner.put_part(data),
            Err(_) => Box::pin(async { Err(lost()) }),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.inner.complete().await?;
        self.unfinished.fetch_sub(1, Ordering::Relaxed);
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.unfinished.fetch_sub(1, Ordering::Relaxed);
        self.inner.abort().await
    }
}
