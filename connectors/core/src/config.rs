//! Values that connector configurations share: text with `${VARIABLES}`, secrets, sizes and
//! durations. They resolve while they are deserialised, so that an error carries the line and
//! column of the value, and so that a variable's content is never parsed as YAML.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Text in which `${NAME}` stands for an environment variable and `$${` for a literal `${`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text(String);

impl Text {
    /// Text as it stands, without substitution.
    pub fn literal(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = String::deserialize(deserializer)?;
        substitute(&raw, |name| std::env::var(name).ok())
            .map(Self)
            .map_err(de::Error::custom)
    }
}

/// Replaces `${NAME}` by `lookup(NAME)`.
fn substitute(raw: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            text.push_str(&rest[..start - 1]);
            text.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        text.push_str(&rest[..start]);
        let end = rest[start..].find('}').ok_or("`${` is not closed by `}`")? + start;
        let name = &rest[start + 2..end];
        text.push_str(&lookup(name).ok_or_else(|| format!("environment variable `{name}` is not set"))?);
        rest = &rest[end + 1..];
    }
    text.push_str(rest);
    Ok(text)
}

/// A value that must not be shown. Written as `{env: NAME}`, `{file: PATH}`,
/// `{credential: NAME}` (a systemd credential), or as text with `${VARIABLES}`.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a value that is already known.
    pub fn new(value: impl Into<String>) -> Self {
        Self(SecretString::from(value.into()))
    }

    /// Runs `read`, and returns with its result the secrets that were deserialised meanwhile on
    /// this thread, in their order. So a reload sees that a secret's file has new content,
    /// without every connector listing its secrets.
    pub fn resolved_in<T>(read: impl FnOnce() -> T) -> (T, Vec<Self>) {
        RESOLVED.set(Some(Vec::new()));
        let result = read();
        (result, RESOLVED.take().unwrap_or_default())
    }

    /// The value itself; never log it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, or one of {env: NAME}, {file: PATH}, {credential: NAME}")
    }

    fn visit_str<E: de::Error>(self, raw: &str) -> Result<Secret, E> {
        substitute(raw, |name| std::env::var(name).ok())
            .map(resolved)
            .map_err(E::custom)
    }

    // A number would lose its leading zeros, and serde's own message would show it.
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
        Err(unquoted())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
        Err(unquoted())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
        Err(unquoted())
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Secret, E> {
        Err(unquoted())
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Secret, E> {
        Err(unquoted())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
        Err(unquoted())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
        // What stands here may be the secret itself, so that no message repeats it.
        let expected = || de::Error::custom("expected one of {env: NAME}, {file: PATH}, {credential: NAME}");
        let kind = map.next_key::<String>()?.ok_or_else(expected)?;
        if !["env", "file", "credential"].contains(&kind.as_str()) {
            return Err(expected());
        }
        let place = map.next_value::<Text>()?;
        let value = match kind.as_str() {
            "env" => std::env::var(&*place).map_err(|_| format!("environment variable `{place}` is not set")),
            "file" => read_secret(place.as_ref()),
            _ => match std::env::var("CREDENTIALS_DIRECTORY") {
                Ok(folder) => read_secret(&std::path::Path::new(&folder).join(&*place)),
                Err(_) => Err("no systemd credentials here: CREDENTIALS_DIRECTORY is not set".to_owned()),
            },
        };
        let secret = resolved(value.map_err(de::Error::custom)?);
        match map.next_key::<String>()? {
            None => Ok(secret),
            Some(_) => Err(de::Error::custom(format!("unexpected key beside `{kind}`"))),
        }
    }
}

fn unquoted<E: de::Error>() -> E {
    E::custom("a secret that looks like a number or a boolean must stand in quotes")
}

thread_local! {
    /// Where [`Secret::resolved_in`] gathers the secrets that are resolved on this thread.
    static RESOLVED: RefCell<Option<Vec<Secret>>> = const { RefCell::new(None) };
}

/// A secret that was just read, noted for [`Secret::resolved_in`].
fn resolved(value: String) -> Secret {
    let secret = Secret::new(value);
    RESOLVED.with_borrow_mut(|gathered| {
        if let Some(gathered) = gathered {
            gathered.push(secret.clone());
        }
    });
    secret
}

fn read_secret(path: &std::path::Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map(|content| content.trim_end_matches(['\n', '\r']).to_owned())
        .map_err(|error| format!("cannot read the secret in `{}`: {error}", path.display()))
}

/// A size in bytes, written as `128MiB`, `64kB` or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_size(&Text::deserialize(deserializer)?)
            .map(Self)
            .map_err(de::Error::custom)
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err(format!("`{text}` is not a size, expected for example `128MiB`")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a size, expected for example `128MiB`"))?;
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// A length of time, written as `250ms`, `10s`, `5m`, `2h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_period(&Text::deserialize(deserializer)?)
            .map(Self)
            .map_err(de::Error::custom)
    }
}

fn parse_period(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a length of time, expected for example `10s`, `250ms` or `1h`");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs).ok_or_else(wrong);
    match unit.trim() {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" | "min" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86_400),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_and_can_be_escaped() {
        let lookup = |name: &str| (name == "A").then(|| "x".to_owned());
        assert_eq!(substitute("a${A}b$${A}", lookup).unwrap(), "axb${A}");
        assert_eq!(
            substitute("${B}", lookup).unwrap_err(),
            "environment variable `B` is not set"
        );
        assert!(substitute("${A", lookup).is_err());
    }

    #[test]
    fn sizes_and_periods_have_units() {
        assert_eq!(parse_size("128MiB").unwrap(), 128 << 20);
        assert_eq!(parse_size("5").unwrap(), 5);
        assert!(parse_size("5 apples").is_err());
        assert_eq!(parse_period("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_period("7d").unwrap(), Duration::from_secs(604_800));
        assert!(parse_period("10").is_err());
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    fn secret(json: &str) -> Result<Secret, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_in_a_wrong_form_is_not_repeated() {
        for wrong in [
            "87654321",
            "-87654321",
            "8765.4321",
            "87654321876543218765432187654321",
            r#"{"87654321": ""}"#,
            r#"{"87654321": null}"#,
            r#"{"env": "PATH", "87654321": ""}"#,
            "[87654321]",
            "true",
            "null",
        ] {
            let message = secret(wrong).unwrap_err();
            assert!(
                !message.contains("8765") && !message.contains("true"),
                "{wrong}: {message}"
            );
        }
        assert!(secret("87654321").unwrap_err().contains("must stand in quotes"));
        assert_eq!(secret(r#""87654321""#).unwrap().expose(), "87654321");
    }

    #[test]
    fn the_secrets_of_a_configuration_are_gathered() {
        let folder = std::env::temp_dir();
        let file = folder.join(format!("millstream-secret-{}", std::process::id()));
        std::fs::write(&file, "hunter2\n").unwrap();
        let written = format!(r#"[{{"file": "{}"}}, "literal"]"#, file.display());
        let (read, found) = Secret::resolved_in(|| serde_json::from_str::<Vec<Secret>>(&written));
        std::fs::remove_file(&file).unwrap();
        read.unwrap();
        let found: Vec<&str> = found.iter().map(Secret::expose).collect();
        assert_eq!(found, ["hunter2", "literal"]);
        secret(r#""outside""#).unwrap();
        assert!(Secret::resolved_in(|| ()).1.is_empty());
    }
}
