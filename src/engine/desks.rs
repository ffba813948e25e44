//! Where a running pipeline is asked for copies of its sources' tables.

use std::sync::{Arc, Mutex, PoisonError};

use millstream_core::{BackfillDesk, Error, ErrorKind, Result};

/// The desks of the sources of one pipeline, as long as they run. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Desks(Arc<Mutex<Vec<(String, BackfillDesk)>>>);

/// Closes the desks of a pipeline when it is dropped, however the pipeline ended.
#[derive(Debug)]
#[must_use = "the desks close with it"]
pub struct OpenDesks(Desks);

impl Drop for OpenDesks {
    fn drop(&mut self) {
        self.0.replace(Vec::new());
    }
}

impl Desks {
    /// Replaces the desks by those of sources that were just started, by name.
    pub fn open(&self, desks: Vec<(String, BackfillDesk)>) -> OpenDesks {
        self.replace(desks);
        OpenDesks(self.clone())
    }

    fn replace(&self, desks: Vec<(String, BackfillDesk)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = desks;
    }

    /// Asks the source of `table` for a copy. The name may begin with the source's; without that a pipeline
    /// with several sources must have one alone that copies tables.
    ///
    /// # Errors
    /// If the pipeline does not run, if it is not clear which source is meant, or why the source refuses.
    pub async fn ask(&self, table: String, condition: Option<String>) -> Result<()> {
        let mut desks = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if desks.is_empty() {
            return Err(Error::new(ErrorKind::Unavailable, "the pipeline does not run")
                .hint("`millstream status` says why; ask again when it runs"));
        }
        let named = |source: &str| table.strip_prefix(source).is_some_and(|rest| rest.starts_with('.'));
        let meant = desks.iter().position(|(source, _)| named(source));
        let mut served = (0..desks.len()).filter(|desk| desks[*desk].1.is_served());
        let desk = match (meant, served.next(), served.next()) {
            (Some(desk), _, _) | (None, Some(desk), None) => desk,
            (None, Some(_), Some(_)) => return Err(ambiguous(&table)),
            // Any of them says that it copies no table again.
            (None, None, _) => 0,
        };
        desks.swap_remove(desk).1.ask(table, condition).await
    }
}

fn ambiguous(table: &str) -> Error {
    Error::new(ErrorKind::Config, "several sources of the pipeline copy tables")
        .code("PG0070")
        .with("table", table)
        .hint("begin the table's name with its source's, as in `shop.public.orders`")
}

#[cfg(test)]
mod tests {
    use millstream_core::backfill_desk;

    use super::*;

    #[tokio::test]
    async fn a_name_without_its_source_is_taken_only_where_one_source_copies_tables() {
        let desks = Desks::default();
        let ((shop, mut of_shop), (books, of_books)) = (backfill_desk(), backfill_desk());
        let open = desks.open(vec![("books".to_owned(), books), ("shop".to_owned(), shop)]);
        let refused = desks.ask("orders".to_owned(), None).await.unwrap_err();
        assert_eq!(refused.error_code(), Some("PG0070"));

        let answering = async {
            for _ in 0..2 {
                let request = of_shop.next().await.unwrap();
                request.answer.send(Ok(())).unwrap();
            }
        };
        let asking = async {
            desks.ask("shop.orders".to_owned(), None).await.unwrap();
            drop(of_books);
            desks.ask("orders".to_owned(), None).await.unwrap();
        };
        tokio::join!(answering, asking);
        drop(of_shop);
        let refused = desks.ask("orders".to_owned(), None).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);

        drop(open);
        let refused = desks.ask("orders".to_owned(), None).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
    }
}
