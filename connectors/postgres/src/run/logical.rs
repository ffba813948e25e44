//! What applications write into the log with `pg_logical_emit_message`.

use millstream_core::Result;

use super::assembler::Assembler;
use super::tables::Need;
use crate::ddl;
use crate::decode::pgoutput::Logical;

/// Messages whose prefix begins so are for the source itself.
const OURS: &[u8] = b"millstream.";

impl Assembler {
    /// Takes a message, which comes in order with the changes. One that is transactional comes
    /// inside of its transaction, and only if that commits. After `Some`, that need is to be met
    /// and the message given again.
    ///
    /// A stream that is [restarted](super::replay) gives no transactional message twice.
    pub(super) fn take_logical(&mut self, message: &Logical<'_>) -> Result<Option<Need>> {
        let source = self.partition.source().to_owned();
        metrics::counter!("millstream_postgres_logical_messages_total", "source" => source).increment(1);
        let ours = message.transactional && message.prefix.starts_with(OURS);
        if ours && let Some(begun) = &self.transaction {
            let prefix = String::from_utf8_lossy(message.prefix);
            tracing::debug!(%prefix, bytes = message.content.len(), lsn = %message.lsn, commit = %begun.commit, "message");
            if message.prefix == ddl::PREFIX {
                self.tables.described(begun.commit, message.content);
            }
        }
        Ok(None)
    }
}
