//! The table of one file. In: from which file offset on which rule holds, ascending. Out: rows by page, in the layout that
//! [`profiler_ebpf::unwind`] describes.

use profiler_ebpf::unwind::{Row, Rule, rule, storage};
use rustc_hash::FxHashMap;

use super::{Limits, Refused, Statistics};

/// Rules of one table, at most: every file shares the room for [`rule::RULES`]. Real files have a few hundred.
const RULES_MAX: usize = 4096;

/// The rows of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    first_page: u32,
    /// One for each page, and the number of rows at the end.
    starts: Vec<u32>,
    rows: Vec<Row>,
    rules: Vec<Rule>,
    statistics: Statistics,
}

impl Table {
    /// Number of its first page: file offset >> [`storage::PAGE_BITS`].
    pub fn first_page(&self) -> u32 {
        self.first_page
    }

    /// Rows of each page, from the first on; none for a page of which nothing is said.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = &[Row]> {
        self.starts.windows(2).map(|pair| self.rows.get(pair[0] as usize..pair[1] as usize).unwrap_or_default())
    }

    /// All rows, page after page.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rules that rows name by index: first the well-known ones, then its own.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// How it came to be.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Bytes that it takes: rows, page directory and rules.
    pub fn bytes(&self) -> usize {
        size_of_val(self.rows.as_slice())
            + self.pages().len() * size_of::<storage::Page>()
            + size_of_val(self.rules.as_slice())
    }

    /// The rule at a file offset, found as the kernel finds it.
    pub fn rule_at(&self, offset: u64) -> Rule {
        let index = self.rule_index_at(offset).unwrap_or(rule::NO_INFO);
        self.rules.get(usize::from(index)).copied().unwrap_or(Rule::no_info())
    }

    fn rule_index_at(&self, offset: u64) -> Option<u16> {
        let page = usize::try_from((offset >> storage::PAGE_BITS).checked_sub(self.first_page.into())?).ok()?;
        let (start, end) = (*self.starts.get(page)?, *self.starts.get(page.checked_add(1)?)?);
        let rows = self.rows.get(start as usize..end as usize)?;
        let low = (offset & u64::from(storage::ROWS - 1)) as u16;
        let after = rows.partition_point(|row| row.pc_low <= low);
        Some(rows.get(after.checked_sub(1)?)?.rule)
    }
}

/// Makes a [`Table`] row by row.
#[derive(Debug)]
pub(super) struct TableBuilder {
    first_page: u32,
    starts: Vec<u32>,
    rows: Vec<Row>,
    rules: Vec<Rule>,
    by_rule: FxHashMap<Rule, u16>,
    /// What holds since the last row.
    current: u16,
    limit: u64,
    /// Rules for which there was no room.
    pub rules_refused: u64,
}

impl TableBuilder {
    pub fn new(first_page: u32, limits: &Limits) -> Self {
        let rules = rule::well_known().to_vec();
        let by_rule = rules.iter().zip(0..).map(|(rule, index)| (*rule, index)).collect();
        Self {
            first_page,
            starts: vec![0],
            rows: Vec::new(),
            rules,
            by_rule,
            current: rule::NO_INFO,
            limit: limits.rows,
            rules_refused: 0,
        }
    }

    /// The index of a rule.
    #[inline]
    pub fn index(&mut self, rule: Rule) -> u16 {
        if let Some(index) = self.by_rule.get(&rule) {
            return *index;
        }
        if self.rules.len() >= RULES_MAX {
            self.rules_refused += 1;
            return rule::UNSUPPORTED;
        }
        let index = self.rules.len() as u16;
        self.rules.push(rule);
        self.by_rule.insert(rule, index);
        index
    }

    /// From `position` on (bytes from the first page's first), `rule` holds. Positions do not descend; of two at the
    /// same position the later one counts.
    #[inline]
    pub fn row(&mut self, position: u32, rule: u16) -> Result<(), Refused> {
        if rule == self.current {
            return Ok(());
        }
        let page = (position >> storage::PAGE_BITS) as usize;
        let pc_low = (position & (storage::ROWS - 1)) as u16;
        if rule == rule::NO_INFO && pc_low == 0 && page >= self.starts.len() {
            // A page of which nothing else is said has no rows.
            self.open(page - 1);
            self.current = rule;
            return Ok(());
        }
        self.open(page);
        let start = self.starts.get(page).map_or(self.rows.len(), |start| *start as usize);
        let written = self.rows.len() - start;
        if written == 0 && pc_low != 0 {
            self.rows.push(Row { pc_low: 0, rule: self.current });
        }
        match self.rows.last_mut() {
            Some(last) if written > 0 && last.pc_low == pc_low => {
                last.rule = rule;
                if let [.., before, last] = self.rows.as_slice()
                    && written > 1
                    && before.rule == last.rule
                {
                    self.rows.pop();
                }
            }
            _ => self.rows.push(Row { pc_low, rule }),
        }
        self.current = rule;
        if self.rows.len() as u64 > self.limit {
            return Err(Refused::TooLarge { what: "rows", limit: self.limit });
        }
        Ok(())
    }

    /// Begins pages up to this one; what holds goes on in them.
    fn open(&mut self, page: usize) {
        while self.starts.len() <= page {
            self.starts.push(self.rows.len() as u32);
            if self.current != rule::NO_INFO {
                self.rows.push(Row { pc_low: 0, rule: self.current });
            }
        }
    }

    pub fn finish(mut self, statistics: Statistics) -> Table {
        self.starts.push(self.rows.len() as u32);
        self.rows.shrink_to_fit();
        Table { first_page: self.first_page, starts: self.starts, rows: self.rows, rules: self.rules, statistics }
    }
}
