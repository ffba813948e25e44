//! One statement with parameters, whose rows are taken as they come (PostgreSQL manual, 55.2.3
//! "Extended Query").

use bytes::{Buf, Bytes};
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend::{self, BindError};

use super::connection::unexpected;
use super::error::ServerError;
use super::{Connection, WireError};

/// The value of a parameter.
#[derive(Debug, Clone, Copy)]
pub struct Parameter<'a> {
    /// The OID of its type.
    pub type_oid: u32,
    /// Whether `bytes` are the type's binary form; else they are its text.
    pub binary: bool,
    /// The value.
    pub bytes: &'a [u8],
}

/// What the server says of a column of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultColumn {
    /// The OID of the table that it is a column of; 0 if it is computed.
    pub table: u32,
    /// Its number in that table; 0 if it is computed.
    pub attnum: i16,
    /// The OID of its type.
    pub type_oid: u32,
    /// The type's modifier; -1 without.
    pub typmod: i32,
}

/// Rows of a statement. Dropped before their end, they leave the connection unusable.
pub struct Selected<'a> {
    connection: &'a mut Connection,
    columns: Vec<ResultColumn>,
}

impl Connection {
    /// Runs one statement. `binary` says of each column of the result whether it comes in its
    /// type's binary form; else it comes as text.
    ///
    /// Not cancel safe: after a dropped call the connection must be dropped too.
    ///
    /// # Errors
    /// `Server` for what the server says of the statement, after which the connection can be used.
    pub async fn select(
        &mut self,
        sql: &str,
        parameters: &[Parameter<'_>],
        binary: &[bool],
    ) -> Result<Selected<'_>, WireError> {
        self.send(|out| {
            frontend::parse("", sql, parameters.iter().map(|parameter| parameter.type_oid), out)?;
            let bound = frontend::bind(
                "",
                "",
                parameters.iter().map(|parameter| i16::from(parameter.binary)),
                parameters,
                |parameter, out| {
                    out.extend_from_slice(parameter.bytes);
                    Ok(IsNull::No)
                },
                binary.iter().map(|binary| i16::from(*binary)),
                out,
            );
            bound.map_err(|error| match error {
                BindError::Serialization(error) => error,
                BindError::Conversion(error) => std::io::Error::other(error),
            })?;
            frontend::describe(b'P', "", out)?;
            frontend::execute("", 0, out)?;
            frontend::sync(out);
            Ok(())
        })
        .await?;
        let mut failure = None;
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'1' | b'2' => {}
                b'T' => {
                    let columns = parse_columns(&body)?;
                    return Ok(Selected {
                        connection: self,
                        columns,
                    });
                }
                b'E' => failure = Some(ServerError::parse(&body)),
                b'Z' => {
                    return Err(failure.map_or_else(|| unexpected(tag, "in reply to a statement"), WireError::from));
                }
                other => return Err(unexpected(other, "in reply to a statement")),
            }
        }
    }
}

impl Selected<'_> {
    /// The columns of the result.
    pub fn columns(&self) -> &[ResultColumn] {
        &self.columns
    }

    /// The values of the next row, `None` for NULL; nothing at the end, when the connection can
    /// be used again.
    ///
    /// # Errors
    /// `Server` for what the server says, after which the connection can be used.
    pub async fn next(&mut self) -> Result<Option<Vec<Option<Bytes>>>, WireError> {
        let mut failure = None;
        loop {
            let (tag, body) = self.connection.message().await?;
            match tag {
                b'D' => return parse_values(body).map(Some),
                b'C' => {}
                b'E' => failure = Some(ServerError::parse(&body)),
                b'Z' => return failure.map_or(Ok(None), |error| Err(error.into())),
                other => return Err(unexpected(other, "among the rows of a statement")),
            }
        }
    }
}

fn parse_columns(body: &[u8]) -> Result<Vec<ResultColumn>, WireError> {
    let malformed = |_| WireError::Protocol("a malformed row description".to_owned());
    let mut rest = body;
    let count = rest.try_get_u16().map_err(malformed)?;
    let columns = (0..count).map(|_| {
        let name = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
        rest = rest.get(name + 1..).unwrap_or_default();
        let table = rest.try_get_u32()?;
        let attnum = rest.try_get_i16()?;
        let type_oid = rest.try_get_u32()?;
        let _length = rest.try_get_u16()?;
        let typmod = rest.try_get_i32()?;
        let _format = rest.try_get_u16()?;
        Ok(ResultColumn {
            table,
            attnum,
            type_oid,
            typmod,
        })
    });
    columns.collect::<Result<_, bytes::TryGetError>>().map_err(malformed)
}

fn parse_values(mut rest: Bytes) -> Result<Vec<Option<Bytes>>, WireError> {
    let malformed = || WireError::Protocol("a malformed row".to_owned());
    let count = rest.try_get_u16().map_err(|_| malformed())?;
    let values = (0..count).map(|_| {
        let length = rest.try_get_i32().map_err(|_| malformed())?;
        match usize::try_from(length) {
            Err(_) => Ok(None),
            Ok(length) if length <= rest.len() => Ok(Some(rest.split_to(length))),
            Ok(_) => Err(malformed()),
        }
    });
    values.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_values_are_read_and_cut_ones_refused() {
        let column = [
            b"a\0".as_slice(),
            &7u32.to_be_bytes(),
            &[0, 1],
            &25u32.to_be_bytes(),
            &[0xff; 6],
            &[0, 1],
        ];
        let body = [b"\0\x01".as_slice(), &column.concat()].concat();
        let expected = ResultColumn {
            table: 7,
            attnum: 1,
            type_oid: 25,
            typmod: -1,
        };
        assert_eq!(parse_columns(&body).unwrap(), [expected]);
        assert!(parse_columns(&body[..body.len() - 1]).is_err());
        let row = b"\0\x02\0\0\0\x01x\xff\xff\xff\xff";
        assert_eq!(
            parse_values(Bytes::from_static(row)).unwrap(),
            [Some(Bytes::from_static(b"x")), None]
        );
        assert!(parse_values(Bytes::from_static(&row[..8])).is_err());
    }
}
