//! The local file system as an object store whose writes survive a power cut.
//!
//! `object_store`'s `LocalFileSystem` never calls fsync, so that a commit record could be
//! linked into place before its content is on the disk. Here a file's content is synced before
//! its name appears, and the name is synced before the write is reported as done.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, process};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use uuid::Uuid;

const STORE: &str = "folder";

/// See the module. Paths are those of `LocalFileSystem::new`: absolute, from the root.
#[derive(Debug, Clone)]
pub(crate) struct DurableFolder {
    inner: LocalFileSystem,
    folders: Arc<Folders>,
}

impl DurableFolder {
    pub(crate) fn new() -> Self {
        Self::with_sync(|folder| File::open(folder)?.sync_all())
    }

    fn with_sync(sync: impl Fn(&FilePath) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self {
            inner: LocalFileSystem::new(),
            folders: Arc::new(Folders {
                sync: Box::new(sync),
                known: Mutex::default(),
            }),
        }
    }
}

/// Makes the entries of a folder durable.
type SyncFolder = dyn Fn(&FilePath) -> io::Result<()> + Send + Sync;

/// The folders above files, as far as they are on the disk.
struct Folders {
    sync: Box<SyncFolder>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Folders whose own entry in their parent is known to be on the disk.
    synced: HashSet<PathBuf>,
    /// Files that can be read but may vanish in a power cut, because syncing their folder failed.
    doubtful: HashSet<PathBuf>,
}

impl fmt::Debug for Folders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folders").finish_non_exhaustive()
    }
}

impl Folders {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the name of `file` durable. Until that works, the file stays in doubt.
    fn settle(&self, file: &FilePath) -> io::Result<()> {
        let synced = self.sync_above(file);
        let mut known = self.known();
        match &synced {
            Ok(()) => known.doubtful.remove(file),
            Err(_) => known.doubtful.insert(file.to_owned()),
        };
        synced
    }

    /// Syncs the folder that holds `file`, and the entries of the folders above it where they may
    /// be new.
    fn sync_above(&self, file: &FilePath) -> io::Result<()> {
        let mut climbed = Vec::new();
        for folder in file.ancestors().skip(1) {
            // A folder that we may not read, such as one above the sink's, was not made by us.
            if !climbed.is_empty() && File::open(folder).is_err() {
                break;
            }
            (self.sync)(folder)?;
            climbed.push(folder.to_owned());
            if self.known().synced.contains(folder) {
                break;
            }
        }
        // Only now, or a failure further up would be forgotten by the next climb.
        self.known().synced.extend(climbed);
        Ok(())
    }

    fn is_doubtful(&self, file: &FilePath) -> bool {
        self.known().doubtful.contains(file)
    }
}

/// The file system cannot create a file under the condition that its name is free.
#[derive(Debug, thiserror::Error)]
#[error("the file system has no hard links")]
pub(crate) struct NoHardLinks(#[source] pub(crate) io::Error);

impl fmt::Display for DurableFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STORE)
    }
}

fn generic(error: io::Error) -> Error {
    Error::Generic {
        store: STORE,
        source: Box::new(error),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Creates the file's folders and opens a staging file beside it. The suffix is one that
/// `LocalFileSystem` leaves out of listings: `#` and digits.
fn stage(destination: &FilePath) -> io::Result<(PathBuf, File)> {
    let mut name = destination.as_os_str().to_owned();
    name.push(format!("#{}{:010}", process::id(), Uuid::new_v4().as_fields().0));
    let staging = PathBuf::from(name);
    let open = || OpenOptions::new().write(true).create_new(true).open(&staging);
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(destination.parent().unwrap_or(FilePath::new("/")))?;
            open()?
        }
        opened => opened?,
    };
    Ok((staging, file))
}

fn write(destination: &FilePath, payload: &PutPayload, mode: &PutMode) -> io::Result<()> {
    let (staging, mut file) = stage(destination)?;
    let written = payload
        .iter()
        .try_for_each(|part| file.write_all(part))
        .and_then(|()| file.sync_all());
    let published = written.and_then(|()| match mode {
        PutMode::Create => fs::hard_link(&staging, destination).map_err(|error| match error.kind() {
            // The staging file could be created here, so this is not about permissions.
            io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => io::Error::other(NoHardLinks(error)),
            _ => error,
        }),
        _ => fs::rename(&staging, destination),
    });
    // After a rename this finds nothing, which is as well.
    let _ = fs::remove_file(&staging);
    published
}

#[async_trait]
impl ObjectStore for DurableFolder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) {
            return Err(Error::NotImplemented {
                operation: "update".into(),
                implementer: STORE.into(),
            });
        }
        let destination = self.inner.path_to_filesystem(location)?;
        let folders = self.folders.clone();
        let path = location.to_string();
        blocking(move || {
            write(&destination, &payload, &opts.mode).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Error::AlreadyExists {
                    path,
                    source: Box::new(error),
                },
                _ => generic(error),
            })?;
            folders.settle(&destination).map_err(generic)?;
            Ok(PutResult {
                e_tag: None,
                version: None,
            })
        })
        .await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let destination = self.inner.path_to_filesystem(location)?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(DurableUpload {
            inner,
            destination,
            folders: self.folders.clone(),
        }))
    }

    /// What a reader is told must not vanish later, so a name in doubt is settled first.
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let file = self.inner.path_to_filesystem(location)?;
        if self.folders.is_doubtful(&file) {
            let folders = self.folders.clone();
            blocking(move || folders.settle(&file).map_err(generic)).await?;
        }
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    destination: PathBuf,
    folders: Arc<Folders>,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.inner.complete().await?;
        let (destination, folders) = (self.destination.clone(), self.folders.clone());
        // Synced under its final name, which is early enough: no commit refers to it yet.
        blocking(move || {
            let sync = || {
                File::open(&destination)?.sync_all()?;
                folders.settle(&destination)
            };
            sync().map_err(generic)
        })
        .await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn creates_are_exclusive_and_leave_no_staging_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableFolder::new();
        let path = Path::from_absolute_path(folder.path().join("a/b/c")).unwrap();
        let create = || store.put_opts(&path, "x".into(), PutMode::Create.into());
        create().await.unwrap();
        assert!(matches!(create().await, Err(Error::AlreadyExists { .. })));
        store.put(&path, "y".into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "y");
        let mut upload = store.put_multipart(&path).await.unwrap();
        upload.put_part("zz".into()).await.unwrap();
        let parent = Path::from_absolute_path(folder.path()).unwrap();
        let listed: Vec<_> = store.list(Some(&parent)).try_collect().await.unwrap();
        assert_eq!(listed.len(), 1, "staging files are not listed");
        upload.complete().await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "zz");
        assert_eq!(fs::read_dir(folder.path().join("a/b")).unwrap().count(), 1);
    }

    /// A folder whose syncs are written down, and fail for as long as is wanted at one place.
    fn failing_at(place: PathBuf) -> (DurableFolder, Arc<Mutex<Vec<PathBuf>>>, Arc<AtomicBool>) {
        let (synced, fails) = (Arc::<Mutex<Vec<PathBuf>>>::default(), Arc::new(AtomicBool::new(true)));
        let (seen, failing) = (synced.clone(), fails.clone());
        let store = DurableFolder::with_sync(move |folder| {
            if failing.load(Ordering::Relaxed) && folder == place {
                return Err(io::Error::from_raw_os_error(5));
            }
            seen.lock().unwrap().push(folder.to_owned());
            Ok(())
        });
        (store, synced, fails)
    }

    #[tokio::test]
    async fn a_file_whose_name_is_not_on_the_disk_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _, fails) = failing_at(folder.path().join("a"));
        let path = Path::from_absolute_path(folder.path().join("a/x")).unwrap();
        store
            .put_opts(&path, "x".into(), PutMode::Create.into())
            .await
            .unwrap_err();
        assert!(folder.path().join("a/x").exists());
        store.get(&path).await.unwrap_err();
        fails.store(false, Ordering::Relaxed);
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "x");
    }

    #[tokio::test]
    async fn a_folder_counts_as_durable_once_all_above_it_are() {
        let folder = tempfile::tempdir().unwrap();
        let (store, synced, fails) = failing_at(folder.path().join("a"));
        let path = |name: &str| Path::from_absolute_path(folder.path().join(name)).unwrap();
        store.put(&path("a/b/x"), "x".into()).await.unwrap_err();
        fails.store(false, Ordering::Relaxed);
        synced.lock().unwrap().clear();
        store.put(&path("a/b/y"), "y".into()).await.unwrap();
        let expected = [
            folder.path().join("a/b"),
            folder.path().join("a"),
            folder.path().to_owned(),
        ];
        assert_eq!(synced.lock().unwrap()[..3], expected, "the parents once more");
        synced.lock().unwrap().clear();
        store.put(&path("a/b/z"), "z".into()).await.unwrap();
        assert_eq!(*synced.lock().unwrap(), [folder.path().join("a/b")]);
    }
}
