//! The table that a topic becomes: the columns of its messages, then those of their metadata.

use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Fields, Schema, TimeUnit};
use millstream_core::{TableId, TableSchema};

use crate::config::{Decode, KafkaConfig};
use crate::decode::column_type::{ColumnType, struct_fields};

/// Names of the metadata columns, in their order.
///
/// | column             | type                                          | meaning |
/// |--------------------|-----------------------------------------------|---------|
/// | `_extra`           | Utf8                                          | only with `decode: json`: fields that have no column, as one JSON object, each as it was sent |
/// | `_key`             | Binary                                        | the message's key |
/// | `_headers`         | List(Struct(key: Utf8, value: Binary))        | the headers in order, names may repeat; null where there are none |
/// | `_kafka_partition` | Int32                                         | the partition |
/// | `_kafka_offset`    | Int64                                         | the offset |
/// | `_timestamp`       | Timestamp(µs, UTC)                            | the message's timestamp, as the producer or the broker set it |
pub const METADATA: &[&str] = &[
    "_extra",
    "_key",
    "_headers",
    "_kafka_partition",
    "_kafka_offset",
    "_timestamp",
];

/// The name of the only column of `decode: bytes`.
pub const VALUE: &str = "value";

/// The fields of one header.
pub fn header_fields() -> Fields {
    static FIELDS: LazyLock<Fields> = LazyLock::new(|| {
        [
            Field::new("key", DataType::Utf8, true),
            Field::new("value", DataType::Binary, true),
        ]
        .into_iter()
        .collect()
    });
    FIELDS.clone()
}

/// A topic's table.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The topic.
    pub topic: String,
    /// The columns of a JSON message; `None` where payloads are kept as bytes.
    pub json: Option<Vec<(String, ColumnType)>>,
    /// The table with all its columns.
    pub schema: Arc<TableSchema>,
}

impl Layout {
    /// The table of `topic`, whose JSON messages have `columns`.
    pub fn new(source: &str, topic: &str, config: &KafkaConfig, columns: Vec<(String, ColumnType)>) -> Self {
        let json = matches!(config.decode, Decode::Json(_)).then_some(columns);
        let mut fields: Vec<Arc<Field>> = match &json {
            Some(columns) => struct_fields(columns).iter().cloned().collect(),
            None => vec![Arc::new(Field::new(VALUE, DataType::Binary, true))],
        };
        let header = Field::new_list_field(DataType::Struct(header_fields()), true);
        let metadata = [
            ("_extra", DataType::Utf8),
            ("_key", DataType::Binary),
            ("_headers", DataType::List(Arc::new(header))),
            ("_kafka_partition", DataType::Int32),
            ("_kafka_offset", DataType::Int64),
            (
                "_timestamp",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ),
        ];
        let metadata = metadata
            .into_iter()
            .filter(|(name, _)| json.is_some() || *name != "_extra");
        fields.extend(metadata.map(|(name, r#type)| Arc::new(Field::new(name, r#type, true))));
        let schema = TableSchema {
            id: TableId::new(source, None, topic),
            columns: Arc::new(Schema::new(fields)),
            key: config.key.clone(),
            not_null: config
                .key
                .iter()
                .cloned()
                .chain(["_kafka_partition".into(), "_kafka_offset".into()])
                .collect(),
            before_image: false,
        };
        Self {
            topic: topic.to_owned(),
            json,
            schema: Arc::new(schema),
        }
    }
}
