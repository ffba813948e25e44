//! Errors at the edge: what object stores, Arrow and the commit log report, in the contract's terms.

use std::error::Error as StdError;
use std::io;

use millstream_core::{Error, ErrorKind};

use crate::decision::recover::AdvanceFault;
use crate::durable_folder::NoHardLinks;
use crate::evolution::SchemaFault;
use crate::partition::PartitionFault;
use crate::storage::LocationFault;
use crate::stored_schema::UnknownType;

/// What went wrong in a store, as far as it can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreFault {
    Full,
    Denied,
    FolderDenied,
    NoBucket,
    NotFound,
    NoLinks,
    Rejected,
    Unreachable,
}

fn judge(error: &object_store::Error) -> StoreFault {
    use object_store::Error as Store;
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            if io.get_ref().is_some_and(|inner| inner.is::<NoHardLinks>()) {
                return StoreFault::NoLinks;
            }
            match io.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    return StoreFault::Full;
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotADirectory => {
                    return StoreFault::FolderDenied;
                }
                _ => {}
            }
        }
        cause = inner.source();
    }
    let text = error.to_string();
    if [
        "NoSuchBucket",
        "ContainerNotFound",
        "The specified bucket does not exist",
    ]
    .iter()
    .any(|say| text.contains(say))
    {
        return StoreFault::NoBucket;
    }
    match error {
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => StoreFault::Denied,
        Store::NotFound { .. } => StoreFault::NotFound,
        Store::InvalidPath { .. }
        | Store::NotSupported { .. }
        | Store::NotImplemented { .. }
        | Store::UnknownConfigurationKey { .. } => StoreFault::Rejected,
        // The client reports some refusals, such as an unsigned request, as generic.
        _ if text.contains("AccessDenied") || text.contains("InvalidAccessKeyId") => StoreFault::Denied,
        _ => StoreFault::Unreachable,
    }
}

/// Whether the store said no to the last try before acting on it: repeating it cannot help.
pub(crate) fn is_refusal(error: &object_store::Error) -> bool {
    matches!(
        judge(error),
        StoreFault::Denied
            | StoreFault::FolderDenied
            | StoreFault::NoBucket
            | StoreFault::NoLinks
            | StoreFault::Rejected
    )
}

/// An error of the store while trying to do `what`.
pub(crate) fn store(what: &str, error: object_store::Error) -> Error {
    let fault = judge(&error);
    let (kind, code, hint) = match fault {
        StoreFault::Full => (
            ErrorKind::StorageFull,
            "PQ0006",
            "free space on the disk or raise the quota; the pipeline resumes by itself",
        ),
        StoreFault::Denied => (
            ErrorKind::Denied,
            "PQ0002",
            "check the credentials, and that they may read, write, list and delete under the sink's url",
        ),
        StoreFault::FolderDenied => (
            ErrorKind::Denied,
            "PQ0004",
            "let the user that runs millstream write in the sink's folder",
        ),
        StoreFault::NoBucket => (
            ErrorKind::Config,
            "PQ0003",
            "create the bucket or container, or correct the sink's url",
        ),
        StoreFault::Rejected => (ErrorKind::Unsupported, "PQ0011", "check the sink's url and options"),
        StoreFault::NoLinks => (
            ErrorKind::Unsupported,
            "PQ0017",
            "use a folder on a file system with hard links, such as ext4 or XFS; without them two writers could commit over each other",
        ),
        // Also a bucket or an upload that is not there: what is read is judged by `read`.
        StoreFault::NotFound | StoreFault::Unreachable => (
            ErrorKind::Unavailable,
            "PQ0001",
            "check the endpoint, the region and the network between here and the object store",
        ),
    };
    Error::new(kind, format!("cannot {what}"))
        .code(code)
        .hint(hint)
        .caused_by(error)
}

/// The same, while reading what a commit refers to: what is missing was removed.
pub(crate) fn read(what: &str, error: object_store::Error) -> Error {
    if judge(&error) != StoreFault::NotFound {
        return store(what, error);
    }
    Error::new(ErrorKind::Corrupt, format!("cannot {what}"))
        .code("PQ0008")
        .hint("an object that a commit refers to was removed by hand")
        .caused_by(error)
}

/// The columns of a table cannot be stored.
pub(crate) fn schema(table: &str, fault: SchemaFault) -> Error {
    let hint = match &fault {
        SchemaFault::Incompatible { column, .. } => {
            format!("cast `{column}` to its old type in a model, give it a new name, or write to a new table")
        }
        SchemaFault::Unsupported { column, .. } => format!("cast `{column}` to text in a model"),
    };
    Error::new(ErrorKind::SchemaChange, fault.to_string())
        .code("PQ0009")
        .with("table", table)
        .hint(hint)
}

/// A partition expression does not go with a table, or with another expression.
pub(crate) fn partition(table: &str, fault: PartitionFault) -> Error {
    let (kind, code, hint) = match &fault {
        PartitionFault::Missing { .. } => (
            ErrorKind::Config,
            "PQ0010",
            "name a column of the table in `partition_by`, or give this table a sink of its own",
        ),
        PartitionFault::Unsuitable { .. } => (
            ErrorKind::Config,
            "PQ0010",
            "day() takes dates and timestamps, hour() timestamps; partition floats and nested values by another column",
        ),
        PartitionFault::Twice { .. } => (
            ErrorKind::Config,
            "PQ0010",
            "keep one of the two, or give the column another name in a model",
        ),
        PartitionFault::Arrow(_) => return internal("cannot partition rows", table).caused_by(fault),
    };
    Error::new(kind, fault.to_string())
        .code(code)
        .with("table", table)
        .hint(hint)
}

/// The sink's url or options make no sense.
pub(crate) fn location(fault: LocationFault) -> Error {
    Error::new(ErrorKind::Config, fault.to_string())
        .code("PQ0011")
        .hint("a url is a folder, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix")
}

/// The commit log contradicts itself.
pub(crate) fn corrupt(table: &str, version: u64, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Corrupt, "the table's commit log is damaged")
        .code("PQ0008")
        .with("table", table)
        .with("version", version)
        .hint("restore the record from a backup or a version of the object; never edit or remove records by hand")
        .caused_by(cause)
}

/// A record holds a type that this version does not know.
pub(crate) fn unknown_type(table: &str, version: u64, fault: UnknownType) -> Error {
    corrupt(table, version, fault)
}

/// An advance does not follow on from what the table holds.
pub(crate) fn advance(table: &str, fault: AdvanceFault) -> Error {
    match fault {
        AdvanceFault::Gap(_) => Error::new(ErrorKind::Corrupt, fault.to_string())
            .code("PQ0018")
            .with("table", table)
            .hint("reload or restart to resume from what the table holds; if it comes again, copy the table anew"),
        _ => internal("the commit does not follow on", table).caused_by(fault),
    }
}

/// A fault of our own.
pub(crate) fn internal(what: &str, table: &str) -> Error {
    Error::new(ErrorKind::Internal, what).with("table", table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(kind: io::ErrorKind) -> object_store::Error {
        object_store::Error::Generic {
            store: "test",
            source: Box::new(io::Error::from(kind)),
        }
    }

    #[test]
    fn a_full_disk_and_a_forbidden_folder_are_told_apart_from_an_outage() {
        for (io, kind, code) in [
            (io::ErrorKind::StorageFull, ErrorKind::StorageFull, "PQ0006"),
            (io::ErrorKind::PermissionDenied, ErrorKind::Denied, "PQ0004"),
            (io::ErrorKind::ConnectionReset, ErrorKind::Unavailable, "PQ0001"),
        ] {
            let error = store("write", generic(io));
            assert_eq!((error.kind(), error.error_code()), (kind, Some(code)));
            assert!(error.hint_text().is_some());
        }
    }

    #[test]
    fn a_file_system_without_hard_links_is_not_taken_for_a_forbidden_folder() {
        let refused = NoHardLinks(io::Error::from(io::ErrorKind::PermissionDenied));
        let error = store(
            "publish",
            object_store::Error::Generic {
                store: "test",
                source: Box::new(io::Error::other(refused)),
            },
        );
        assert_eq!(
            (error.kind(), error.error_code()),
            (ErrorKind::Unsupported, Some("PQ0017"))
        );
    }

    /// A bucket that was removed, or an upload that a lifecycle rule ended; nothing is damaged.
    #[test]
    fn a_write_to_what_is_not_there_is_no_damage() {
        let missing = || object_store::Error::NotFound {
            path: "x".to_owned(),
            source: "404".into(),
        };
        assert_eq!(store("write", missing()).kind(), ErrorKind::Unavailable);
        assert_eq!(read("read", missing()).error_code(), Some("PQ0008"));
    }
}
