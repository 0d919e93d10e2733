//! What the store asks of a database: a handful of operations over rows of plain cells, so that the same
//! queries run on every kind.
//!
//! Queries name their parameters `$1`, `$2`, … in the order in which they first appear, and use only what
//! SQLite and PostgreSQL both understand.

use std::borrow::Cow;
use std::sync::Arc;

use super::StoreError;

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cell<'a> {
    /// Nothing.
    Null,
    /// A whole number; also times (milliseconds since the epoch) and flags (0, 1).
    Int(i64),
    /// Text.
    Text(Cow<'a, str>),
}

impl Cell<'_> {
    /// The text; empty if there is none.
    pub fn text(&self) -> &str {
        match self {
            Cell::Text(text) => text,
            _ => "",
        }
    }

    /// The text, if there is one.
    pub fn maybe(&self) -> Option<String> {
        match self {
            Cell::Text(text) => Some(text.to_string()),
            _ => None,
        }
    }

    /// The number; 0 if there is none.
    pub fn int(&self) -> i64 {
        match self {
            Cell::Int(number) => *number,
            _ => 0,
        }
    }

    /// The number, if there is one.
    pub fn maybe_int(&self) -> Option<i64> {
        match self {
            Cell::Int(number) => Some(*number),
            _ => None,
        }
    }
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Cell<'a> {
        // PostgreSQL has no NUL in text; a name with one can't be that of anything on a host.
        let has_nul = text.as_bytes().contains(&0);
        Cell::Text(if has_nul { text.replace('\0', "\u{fffd}").into() } else { text.into() })
    }
}

impl<'a> From<&'a String> for Cell<'a> {
    fn from(text: &'a String) -> Cell<'a> {
        text.as_str().into()
    }
}

impl<'a> From<&'a Arc<str>> for Cell<'a> {
    fn from(text: &'a Arc<str>) -> Cell<'a> {
        text.as_ref().into()
    }
}

impl From<String> for Cell<'_> {
    fn from(text: String) -> Self {
        Cell::Text(match Cell::from(text.as_str()) {
            Cell::Text(Cow::Owned(other)) => other.into(),
            _ => text.into(),
        })
    }
}

impl From<i64> for Cell<'_> {
    fn from(number: i64) -> Self {
        Cell::Int(number)
    }
}

impl From<u64> for Cell<'_> {
    fn from(number: u64) -> Self {
        Cell::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Cell<'_> {
    fn from(number: u32) -> Self {
        Cell::Int(i64::from(number))
    }
}

impl From<bool> for Cell<'_> {
    fn from(flag: bool) -> Self {
        Cell::Int(i64::from(flag))
    }
}

impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Cell<'a> {
        value.map_or(Cell::Null, Into::into)
    }
}

/// Rows to be put into a table.
#[derive(Clone, Copy, Debug)]
pub struct Insert {
    /// The table.
    pub table: &'static str,
    /// Its columns, in the order of the cells.
    pub columns: &'static [&'static str],
    /// What follows the values: `on conflict (…) do …`.
    pub conflict: &'static str,
}

impl Insert {
    /// The statement for so many rows at once.
    pub fn statement(&self, rows: usize) -> String {
        let width = self.columns.len();
        let tuples: Vec<String> = (0..rows)
            .map(|row| {
                let marks: Vec<String> =
                    (0..width).map(|column| format!("${}", row * width + column + 1)).collect();
                format!("({})", marks.join(", "))
            })
            .collect();
        format!(
            "insert into {} ({}) values {} {}",
            self.table,
            self.columns.join(", "),
            tuples.join(", "),
            self.conflict
        )
    }
}

/// Rows on their way into a table.
pub type Rows<'r, 'c> = &'r mut dyn Iterator<Item = Vec<Cell<'c>>>;

/// A database.
pub trait Backend: Send {
    /// What it is, for messages.
    fn name(&self) -> String;

    /// Runs statements that take no parameters and return nothing.
    ///
    /// # Errors
    /// What the database says.
    fn batch(&mut self, sql: &str) -> Result<(), StoreError>;

    /// Runs one statement; returns how many rows it touched.
    ///
    /// # Errors
    /// What the database says.
    fn execute(&mut self, sql: &str, cells: &[Cell<'_>]) -> Result<u64, StoreError>;

    /// Hands each row of a query's answer to `row`, without holding all of them.
    ///
    /// # Errors
    /// What the database says, or `row`.
    fn query(
        &mut self,
        sql: &str,
        cells: &[Cell<'_>],
        row: &mut dyn FnMut(&[Cell<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// Puts rows into a table.
    ///
    /// # Errors
    /// What the database says.
    fn insert(&mut self, into: &Insert, rows: Rows<'_, '_>) -> Result<(), StoreError>;

    /// From now on nothing waits for a disk, neither what is written nor the end: what that puts off is for
    /// [`Backend::tend`], or for the next who opens the database.
    ///
    /// # Errors
    /// What the database says.
    fn hurry(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Does what was put off, if it has become much.
    ///
    /// # Errors
    /// What the database says.
    fn tend(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The query that answers with a row if there is a table of the name `$1`.
    fn table_query(&self) -> &'static str;

    /// Whether there is a table of that name.
    ///
    /// # Errors
    /// What the database says.
    fn has_table(&mut self, name: &str) -> Result<bool, StoreError> {
        let mut found = false;
        self.query(self.table_query(), &[name.into()], &mut |_| {
            found = true;
            Ok(())
        })?;
        Ok(found)
    }

    /// Begins a transaction that will write.
    ///
    /// # Errors
    /// Somebody else writes for too long.
    fn begin(&mut self) -> Result<(), StoreError>;
}
