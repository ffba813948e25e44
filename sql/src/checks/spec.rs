//! What a user writes: one check of a table, as it stands in the pipeline's YAML.

use std::fmt;

use millstream_core::config::Period;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::literal::Literal;
use super::suggest::closest;
use super::threshold::Threshold;

/// One check: a map with exactly one kind (`not_null`, `accepted_range`, …) and its options.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckSpec {
    /// The check's name in reports, metrics and quarantine; made from kind and columns if absent.
    pub name: Option<String>,
    /// What is checked.
    pub kind: CheckKind,
    /// What is done about a failure; see [`CheckKind::default_action`].
    pub then: Option<Action>,
    /// `where`: a SQL condition; rows for which it is not true are not checked.
    pub condition: Option<String>,
    /// The share of checked rows, above 0 and up to 1, that must pass in an epoch.
    pub mostly: Option<f64>,
    /// Report a warning when the number of failing rows in the epoch meets this.
    pub warn_if: Option<Threshold>,
    /// Fail the epoch when the number of failing rows in it meets this.
    pub error_if: Option<Threshold>,
}

/// What is done about rows, or an epoch, that fail a check. In order of severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Report it; everything passes.
    Warn,
    /// Leave the row out.
    Drop,
    /// Move the row to the quarantine table.
    Quarantine,
    /// Let nothing of the epoch become visible, and halt.
    Fail,
}

impl Action {
    /// The word in YAML, reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Drop => "drop",
            Self::Quarantine => "quarantine",
            Self::Fail => "fail",
        }
    }
}

/// The kinds of check, named as dbt and its packages name them.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckKind {
    /// The columns hold no NULL.
    NotNull(Vec<String>),
    /// A column holds one of some values, or NULL.
    AcceptedValues(AcceptedValues),
    /// A column lies between two bounds, or is NULL.
    AcceptedRange(AcceptedRange),
    /// A text column matches a regular expression, or is NULL.
    RegexMatch(RegexMatch),
    /// A text column has so many characters (a binary one so many bytes), or is NULL.
    LengthBetween(LengthBetween),
    /// A SQL condition over the row is true or NULL.
    ExpressionIsTrue(String),
    /// No two rows that are alive in the epoch hold the same values in these columns.
    Unique(Vec<String>),
    /// The epoch publishes so many rows.
    RowCount(RowCount),
    /// The newest time in a column is not too old.
    Freshness(Freshness),
    /// The table has columns of these names and types.
    SchemaMatch(SchemaMatch),
}

/// `accepted_values: {column: status, values: [new, paid]}`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedValues {
    /// The column.
    pub column: String,
    /// The values that pass.
    pub values: Vec<Literal>,
}

/// `accepted_range: {column: amount, min: 0, max: 100}`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedRange {
    /// The column.
    pub column: String,
    /// The least value.
    pub min: Option<Literal>,
    /// The greatest value.
    pub max: Option<Literal>,
    /// Whether `min` itself fails.
    #[serde(default)]
    pub min_exclusive: bool,
    /// Whether `max` itself fails.
    #[serde(default)]
    pub max_exclusive: bool,
}

/// `regex_match: {column: email, pattern: "^[^@]+@"}`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegexMatch {
    /// The column.
    pub column: String,
    /// The pattern, which may match anywhere in the text unless anchored.
    pub pattern: String,
}

/// `length_between: {column: code, min: 2, max: 8}`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthBetween {
    /// The column.
    pub column: String,
    /// The least number of characters or bytes.
    pub min: Option<u64>,
    /// The greatest number of characters or bytes.
    pub max: Option<u64>,
}

/// `row_count: {min: 1, max: 1000000, per: epoch}`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowCount {
    /// The least number of rows.
    pub min: Option<u64>,
    /// The greatest number of rows.
    pub max: Option<u64>,
    /// What is counted over.
    #[serde(default)]
    pub per: Per,
}

/// What an aggregate check looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// The rows of one commit.
    #[default]
    Epoch,
}

/// `freshness: {column: placed_at, max_age: 15m}`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freshness {
    /// The column of times; `__committed_at` if absent.
    pub column: Option<String>,
    /// The greatest age of the newest time.
    pub max_age: Period,
}

/// `schema_match: {columns: {order_id: int64}, exact: false}`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemaMatch {
    /// Names and types of the columns that must be there.
    pub columns: std::collections::BTreeMap<String, String>,
    /// Whether further columns are a failure.
    #[serde(default)]
    pub exact: bool,
}

const KINDS: [&str; 10] = [
    "not_null",
    "accepted_values",
    "accepted_range",
    "regex_match",
    "length_between",
    "expression_is_true",
    "unique",
    "row_count",
    "freshness",
    "schema_match",
];
const OPTIONS: [&str; 6] = ["name", "then", "where", "mostly", "warn_if", "error_if"];

impl CheckKind {
    /// The kind's word in YAML.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NotNull(_) => "not_null",
            Self::AcceptedValues(_) => "accepted_values",
            Self::AcceptedRange(_) => "accepted_range",
            Self::RegexMatch(_) => "regex_match",
            Self::LengthBetween(_) => "length_between",
            Self::ExpressionIsTrue(_) => "expression_is_true",
            Self::Unique(_) => "unique",
            Self::RowCount(_) => "row_count",
            Self::Freshness(_) => "freshness",
            Self::SchemaMatch(_) => "schema_match",
        }
    }

    /// What happens without a `then`: a row that fails alone is quarantined; a failure of the
    /// whole (`unique`, `row_count`, `schema_match`) fails the epoch; `freshness` warns,
    /// because there are no rows in hand that could be held back.
    pub const fn default_action(&self) -> Action {
        match self {
            Self::NotNull(_)
            | Self::AcceptedValues(_)
            | Self::AcceptedRange(_)
            | Self::RegexMatch(_)
            | Self::LengthBetween(_)
            | Self::ExpressionIsTrue(_) => Action::Quarantine,
            Self::Unique(_) | Self::RowCount(_) | Self::SchemaMatch(_) => Action::Fail,
            Self::Freshness(_) => Action::Warn,
        }
    }

    /// Whether single rows fail this check, so that they can be dropped, quarantined and counted.
    pub const fn judges_rows(&self) -> bool {
        !matches!(self, Self::RowCount(_) | Self::Freshness(_) | Self::SchemaMatch(_))
    }

    /// The columns that the check names, in order; SQL is not looked into.
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Self::NotNull(columns) | Self::Unique(columns) => columns.iter().map(String::as_str).collect(),
            Self::AcceptedValues(AcceptedValues { column, .. })
            | Self::AcceptedRange(AcceptedRange { column, .. })
            | Self::RegexMatch(RegexMatch { column, .. })
            | Self::LengthBetween(LengthBetween { column, .. })
            | Self::Freshness(Freshness {
                column: Some(column), ..
            }) => vec![column],
            Self::ExpressionIsTrue(_) | Self::RowCount(_) | Self::SchemaMatch(_) | Self::Freshness(_) => Vec::new(),
        }
    }
}

impl CheckSpec {
    /// A check of `kind` with no options.
    pub fn new(kind: CheckKind) -> Self {
        Self {
            name: None,
            kind,
            then: None,
            condition: None,
            mostly: None,
            warn_if: None,
            error_if: None,
        }
    }

    /// What is done about a failure, chosen or by default.
    pub fn action(&self) -> Action {
        self.then.unwrap_or(self.kind.default_action())
    }

    /// The name given, or one made of the kind and its columns.
    pub fn display_name(&self) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => {
                let mut name = self.kind.name().to_owned();
                for column in self.kind.columns() {
                    name.push('_');
                    name.push_str(column);
                }
                name
            }
        }
    }
}

impl<'de> Deserialize<'de> for CheckSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SpecVisitor)
    }
}

struct SpecVisitor;

impl<'de> Visitor<'de> for SpecVisitor {
    type Value = CheckSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a check, for example `not_null: [order_id]`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CheckSpec, A::Error> {
        let mut kind: Option<CheckKind> = None;
        let (mut name, mut then, mut condition, mut mostly) = (None, None, None, None);
        let (mut warn_if, mut error_if) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            let found = match key.as_str() {
                "name" => {
                    once(&mut name, &key, map.next_value()?)?;
                    continue;
                }
                "then" => {
                    once(&mut then, &key, map.next_value()?)?;
                    continue;
                }
                "where" => {
                    once(&mut condition, &key, map.next_value()?)?;
                    continue;
                }
                "mostly" => {
                    let Share(share) = map.next_value()?;
                    once(&mut mostly, &key, share)?;
                    continue;
                }
                "warn_if" => {
                    once(&mut warn_if, &key, map.next_value()?)?;
                    continue;
                }
                "error_if" => {
                    once(&mut error_if, &key, map.next_value()?)?;
                    continue;
                }
                "not_null" => CheckKind::NotNull(map.next_value::<Columns>()?.0),
                "accepted_values" => CheckKind::AcceptedValues(map.next_value()?),
                "accepted_range" => CheckKind::AcceptedRange(map.next_value()?),
                "regex_match" => CheckKind::RegexMatch(map.next_value()?),
                "length_between" => CheckKind::LengthBetween(map.next_value()?),
                "expression_is_true" => CheckKind::ExpressionIsTrue(map.next_value()?),
                "unique" => CheckKind::Unique(map.next_value::<Columns>()?.0),
                "row_count" => CheckKind::RowCount(map.next_value()?),
                "freshness" => CheckKind::Freshness(map.next_value()?),
                "schema_match" => CheckKind::SchemaMatch(map.next_value()?),
                unknown => return Err(unknown_key(unknown)),
            };
            match kind {
                None => kind = Some(found),
                Some(first) => {
                    return Err(de::Error::custom(format!(
                        "a check has one kind, found `{}` and `{}`: write them as two list items",
                        first.name(),
                        found.name()
                    )));
                }
            }
        }
        let kind =
            kind.ok_or_else(|| de::Error::custom(format!("a check needs a kind, expected one of {}", listed(&KINDS))))?;
        Ok(CheckSpec {
            name,
            kind,
            then,
            condition,
            mostly,
            warn_if,
            error_if,
        })
    }
}

fn once<T, E: de::Error>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), E> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom(format!("`{key}` is given twice"))),
    }
}

fn unknown_key<E: de::Error>(key: &str) -> E {
    match closest(key, KINDS.into_iter().chain(OPTIONS)) {
        Some(near) => E::custom(format!("unknown key `{key}` in a check, did you mean `{near}`?")),
        None => E::custom(format!(
            "unknown key `{key}` in a check, expected one kind of {} and options of {}",
            listed(&KINDS),
            listed(&OPTIONS)
        )),
    }
}

fn listed(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// One column's name, or a list of them.
struct Columns(Vec<String>);

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ColumnsVisitor)
    }
}

struct ColumnsVisitor;

impl<'de> Visitor<'de> for ColumnsVisitor {
    type Value = Columns;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of columns, for example `[order_id, customer_id]`")
    }

    fn visit_str<E: de::Error>(self, column: &str) -> Result<Columns, E> {
        Ok(Columns(vec![column.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Columns, A::Error> {
        let mut columns = Vec::new();
        while let Some(column) = seq.next_element()? {
            columns.push(column);
        }
        if columns.is_empty() {
            Err(de::Error::custom("the list of columns is empty"))
        } else {
            Ok(Columns(columns))
        }
    }
}

/// A share of rows, above 0 and up to 1.
struct Share(f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let share = f64::deserialize(deserializer)?;
        if share > 0.0 && share <= 1.0 {
            Ok(Self(share))
        } else {
            Err(de::Error::custom(format!(
                "`mostly` is a share above 0 and up to 1, for example 0.99, found {share}"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<Vec<CheckSpec>, String> {
        serde_saphyr::from_str(yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn options_stand_beside_the_kind() {
        let specs = parse(
            "- not_null: [a, b]\n  then: drop\n  where: a > 1\n  name: n\n- unique: a\n  error_if: '>10'\n  warn_if: '> 0'\n",
        )
        .unwrap();
        assert_eq!(specs[0].kind, CheckKind::NotNull(vec!["a".into(), "b".into()]));
        assert_eq!(
            (specs[0].action(), specs[0].condition.as_deref()),
            (Action::Drop, Some("a > 1"))
        );
        assert_eq!(specs[0].display_name(), "n");
        assert_eq!(specs[1].display_name(), "unique_a");
        assert_eq!(specs[1].action(), Action::Fail);
        assert!(specs[1].error_if.unwrap().met_by(11));
    }

    #[test]
    fn faults_are_named_in_plain_words() {
        for (yaml, said) in [
            (
                "- not_nul: [a]",
                "unknown key `not_nul` in a check, did you mean `not_null`?",
            ),
            ("- then: warn", "a check needs a kind"),
            (
                "- {not_null: [a], unique: [a]}",
                "a check has one kind, found `not_null` and `unique`",
            ),
            ("- {not_null: [a], mostly: 1.5}", "`mostly` is a share above 0"),
            ("- {not_null: [a], error_if: lots}", "is not a threshold"),
            ("- {not_null: [a], then: delete}", "delete"),
            ("- {not_null: []}", "the list of columns is empty"),
            ("- {accepted_range: {column: a, minimum: 2}}", "minimum"),
            ("- {accepted_values: {column: a, values: [null]}}", "NULL"),
            ("- {freshness: {max_age: 15}}", "is not a length of time"),
            ("- {row_count: {min: 1, per: hour}}", "hour"),
        ] {
            let message = parse(yaml).expect_err(yaml);
            assert!(message.contains(said), "{yaml}: {message}");
        }
    }
}
