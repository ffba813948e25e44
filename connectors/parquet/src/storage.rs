//! Where a sink's tables lie: the url, the object store behind it, and the prefix within.

use std::collections::BTreeMap;
use std::path::{Component, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millstream_core::Result;
use millstream_core::config::Secret;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use crate::config::ParquetConfig;
use crate::durable_folder::DurableFolder;
use crate::fault;

/// A url that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// An absolute folder of the local file system.
    Folder(PathBuf),
    /// A prefix in a bucket or container.
    Bucket(Url),
}

/// A url or an option that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocationFault {
    /// What is shown is the scheme and the host: the rest may hold a key.
    #[error("`{0}` is not a url that tables can be written to")]
    Url(String),
    #[error(
        "the url must not hold a user or a password; give them under `options`, and write an `@` of a name as `%40`"
    )]
    Credentials,
    #[error("the url must have no `?` and no `#`; give keys and tokens under `options`")]
    Query,
    #[error("`{0}:` begins neither a url (`{0}://…`) nor a folder (`./{0}:…`)")]
    HalfScheme(String),
    #[error("`{0}` is not an option of this object store")]
    Option(String),
    #[error("the endpoint is plain http; set the option `{0}: true` if that is wanted")]
    PlainHttp(&'static str),
    #[error("the object store cannot be set up: {0}")]
    Setup(String),
}

impl Location {
    /// Understands a url or a path. A relative path starts at the working directory.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, LocationFault> {
        if text.is_empty() {
            return Err(LocationFault::Url(String::new()));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Self::folder(text);
        };
        // The container of abfss://container@account stands where a user would.
        let names = usize::from(scheme.starts_with("abfs"));
        if rest.matches('@').count() > names {
            return Err(LocationFault::Credentials);
        }
        let Ok(url) = Url::parse(text) else {
            return Err(LocationFault::Url(shown(scheme, None)));
        };
        if url.password().is_some() {
            return Err(LocationFault::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(LocationFault::Query);
        }
        let wrong = || LocationFault::Url(shown(scheme, url.host_str()));
        match ObjectStoreScheme::parse(&url).map_err(|_| wrong())?.0 {
            ObjectStoreScheme::Local => url.to_file_path().map(Self::Folder).map_err(|()| wrong()),
            ObjectStoreScheme::AmazonS3 | ObjectStoreScheme::GoogleCloudStorage | ObjectStoreScheme::MicrosoftAzure => {
                Ok(Self::Bucket(url))
            }
            _ => Err(wrong()),
        }
    }

    fn folder(text: &str) -> std::result::Result<Self, LocationFault> {
        // `s3:/lake` is a slip, and would become a folder of that name.
        if let Some((first, _)) = text.split_once(':')
            && first.starts_with(|c: char| c.is_ascii_alphabetic())
            && first.chars().all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c))
        {
            return Err(LocationFault::HalfScheme(first.to_owned()));
        }
        let wrong = |_| LocationFault::Url(text.to_owned());
        let mut folder = PathBuf::new();
        for part in std::path::absolute(text).map_err(wrong)?.components() {
            match part {
                Component::ParentDir => drop(folder.pop()),
                part => folder.push(part),
            }
        }
        Ok(Self::Folder(folder))
    }
}

/// What an error may show of a url.
fn shown(scheme: &str, host: Option<&str>) -> String {
    format!("{scheme}://{}", host.unwrap_or("…"))
}

/// An object store with the prefix under which tables lie.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pub store: Arc<dyn ObjectStore>,
    pub prefix: Path,
    /// Set for the local file system.
    pub folder: Option<PathBuf>,
    /// What to prepend to an object's path to get a location that other tools understand.
    base: String,
}

impl Storage {
    /// Sets up the store of `config`, without I/O.
    pub(crate) fn of(config: &ParquetConfig) -> Result<Self> {
        let location = Location::parse(&config.url).map_err(fault::location)?;
        match location {
            Location::Folder(folder) => Self::local(folder, &config.options),
            Location::Bucket(url) => Self::remote(&url, &config.options),
        }
        .map_err(fault::location)
    }

    /// Any store, such as one that injects faults.
    pub(crate) fn with_store(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        let base = format!("{store}/");
        Self {
            store,
            prefix,
            folder: None,
            base,
        }
    }

    fn local(folder: PathBuf, options: &BTreeMap<String, Secret>) -> std::result::Result<Self, LocationFault> {
        if let Some(name) = options.keys().next() {
            return Err(LocationFault::Option(name.clone()));
        }
        let wrong = |_| LocationFault::Url(folder.display().to_string());
        let prefix = Path::from_absolute_path(&folder).map_err(wrong)?;
        Ok(Self {
            store: Arc::new(DurableFolder::new()),
            prefix,
            folder: Some(folder),
            base: "/".to_owned(),
        })
    }

    fn remote(url: &Url, options: &BTreeMap<String, Secret>) -> std::result::Result<Self, LocationFault> {
        let wrong = |_| LocationFault::Url(shown(url.scheme(), url.host_str()));
        let (scheme, prefix) = ObjectStoreScheme::parse(url).map_err(wrong)?;
        let refused = |error: object_store::Error| LocationFault::Setup(without_values(error.to_string(), options));
        let pairs = options
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.expose()));
        let unknown = |name: &str| LocationFault::Option(name.to_owned());
        let plain = options.iter().any(|(name, value)| {
            name.to_ascii_lowercase().ends_with("endpoint") && value.expose().starts_with("http://")
        });
        let allowed = options
            .keys()
            .any(|name| name.to_ascii_lowercase().ends_with("allow_http"));
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::AmazonS3 => {
                if plain && !allowed && std::env::var_os("AWS_ALLOW_HTTP").is_none() {
                    return Err(LocationFault::PlainHttp("aws_allow_http"));
                }
                let mut builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retries());
                for (name, value) in pairs {
                    let key: AmazonS3ConfigKey = name.parse().map_err(|_| unknown(&name))?;
                    builder = builder.with_config(key, value);
                }
                Arc::new(builder.build().map_err(refused)?)
            }
            ObjectStoreScheme::GoogleCloudStorage => {
                let mut builder = GoogleCloudStorageBuilder::from_env()
                    .with_url(url.as_str())
                    .with_retry(retries());
                for (name, value) in pairs {
                    let key: GoogleConfigKey = name.parse().map_err(|_| unknown(&name))?;
                    builder = builder.with_config(key, value);
                }
                Arc::new(builder.build().map_err(refused)?)
            }
            _ => {
                if plain && !allowed && std::env::var_os("AZURE_ALLOW_HTTP").is_none() {
                    return Err(LocationFault::PlainHttp("azure_allow_http"));
                }
                let mut builder = MicrosoftAzureBuilder::from_env()
                    .with_url(url.as_str())
                    .with_retry(retries());
                for (name, value) in pairs {
                    let key: AzureConfigKey = name.parse().map_err(|_| unknown(&name))?;
                    builder = builder.with_config(key, value);
                }
                Arc::new(builder.build().map_err(refused)?)
            }
        };
        let whole = url.as_str();
        let end = whole.len() - url.path().len();
        let mut base = format!("{}/", &whole[..end]);
        // A path-style https url has the bucket in its path, which is not part of the prefix.
        if url.scheme() == "https"
            && let Some(bucket) = url.path_segments().and_then(|mut segments| segments.next())
            && !prefix.as_ref().starts_with(bucket)
        {
            base = format!("{base}{bucket}/");
        }
        Ok(Self {
            store,
            prefix,
            folder: None,
            base,
        })
    }

    /// The folder of a table.
    pub(crate) fn table(&self, table: &str) -> Path {
        self.prefix.clone().join(table)
    }

    /// An object's location as other tools write it: an absolute path, or a url.
    pub(crate) fn location(&self, path: &Path) -> String {
        format!("{}{path}", self.base)
    }
}

/// `text` without what the options say: a key that cannot be parsed is quoted by its parser.
fn without_values(text: String, options: &BTreeMap<String, Secret>) -> String {
    let values = options.values().map(Secret::expose).filter(|value| !value.is_empty());
    values.fold(text, |text, value| text.replace(value, "***"))
}

/// Retries of a single request inside the store's client. Kept short: the commit protocol and
/// the engine have retries of their own, and know what they retry.
fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 4,
        retry_timeout: Duration::from_secs(60),
        ..RetryConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(url: &str, options: &[(&str, &str)]) -> Result<Storage> {
        let mut config = ParquetConfig::new(url);
        config.options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Secret::new(*value)))
            .collect();
        Storage::of(&config)
    }

    #[test]
    fn folders_and_buckets_are_understood() {
        let local = storage("file:///srv/my%20lake", &[]).unwrap();
        assert_eq!(local.location(&local.table("orders")), "/srv/my lake/orders");
        assert!(storage("./lake", &[]).unwrap().folder.unwrap().is_absolute());
        let s3 = storage(
            "s3://lake/shop",
            &[("aws_region", "x"), ("AWS_ENDPOINT", "https://s3.example")],
        )
        .unwrap();
        assert_eq!(
            s3.location(&s3.table("orders").join("data")),
            "s3://lake/shop/orders/data"
        );
        let azure = storage("az://lake/shop", &[("azure_storage_account_name", "a")]).unwrap();
        assert_eq!(azure.location(&azure.table("orders")), "az://lake/shop/orders");
    }

    #[test]
    fn mistakes_are_named_without_secrets() {
        for (url, options, said) in [
            (
                "s3://lake",
                &[("aws_regoin", "hunter2")][..],
                "`aws_regoin` is not an option",
            ),
            (
                "s3://lake",
                &[("aws_endpoint", "http://hunter2:1")][..],
                "aws_allow_http",
            ),
            ("s3://me:hunter2@lake", &[][..], "must not hold a user"),
            ("s3://key:hun/ter2@lake", &[][..], "must not hold a user"),
            ("s3://key:80/hunter2@lake", &[][..], "must not hold a user"),
            ("abfss://me:hunter2@lake/x", &[][..], "must not hold a user"),
            ("https://host/lake?sig=hunter2", &[][..], "must have no `?`"),
            ("s3://lake/shop?sig=hunter2", &[][..], "must have no `?`"),
            ("s3://lake:hunter2", &[][..], "`s3://…` is not a url"),
            ("redis://x/hunter2", &[][..], "`redis://x` is not a url"),
            ("s3:/lake/hunter2", &[][..], "`s3:` begins neither"),
            (
                "gs://lake",
                &[("google_service_account_key", "\"hunter2\"")][..],
                "cannot be set up",
            ),
            (
                "/srv/lake",
                &[("aws_region", "hunter2")][..],
                "`aws_region` is not an option",
            ),
            ("redis://x", &[][..], "redis://x"),
        ] {
            let error = storage(url, options).unwrap_err();
            assert!(error.summary().contains(said), "{error}");
            assert!(!error.summary().contains("hunter2"));
            assert_eq!(error.error_code(), Some("PQ0011"));
        }
    }
}
