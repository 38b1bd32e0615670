//! Files' tables in the kernel's memory. In: rows of a file. Out: a number that mappings name it by, and room taken from those
//! used longest ago.

use profiler_ebpf::unwind::{
    Row, Rule, TableEntry,
    storage::{Page, TABLES, table_state},
};
use rustc_hash::FxHashMap;

use super::{
    places::{Extent, Places, SEGMENT_WORDS},
    rules::Rules,
};
use crate::{kernel::UnwindMaps, process::ModuleId};

/// The table of files that could not be opened.
pub const BAD_FILE: u32 = 0;
/// The vDSO's table.
pub const VDSO: u32 = 1;
/// The first number that is a file's.
const FIRST: u32 = 2;

/// A file's rows, as its builder gives them.
pub trait Rows {
    /// Number of the first page.
    fn first_page(&self) -> u32;
    /// Rows of each page.
    fn pages(&self) -> impl ExactSizeIterator<Item = &[Row]>;
    /// The rules that rows name.
    fn rules(&self) -> &[Rule];
}

/// How far a table has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nobody asked for it yet.
    Unasked,
    /// It is being built.
    Asked,
    /// It is there.
    Ready,
    /// It was put out, or found no room, at this time (CLOCK_MONOTONIC, ns).
    NoRoom(u64),
    /// Its file cannot be read or understood.
    Bad,
}

/// One table.
#[derive(Debug)]
struct Table {
    /// None for a number that is free.
    module: Option<ModuleId>,
    progress: Progress,
    extents: Vec<Extent>,
    /// Lists that name it.
    lists: u32,
    /// When it was last seen in use (CLOCK_MONOTONIC, ns).
    used_ns: u64,
}

impl Table {
    /// Whether the programs find all of it.
    fn is_announced(&self, maps: &UnwindMaps) -> bool {
        self.extents.iter().all(|extent| maps.is_announced(extent.place))
    }
}

/// All tables.
#[derive(Debug)]
pub struct Tables {
    by_number: Vec<Table>,
    by_module: FxHashMap<ModuleId, u32>,
    now_ns: u64,
    /// Rows that are there.
    rows: u64,
    /// Those that are there, but not yet to be found by the programs.
    unannounced: Vec<u32>,
}

/// What became of an attempt to lay a table out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Laid {
    /// It is there.
    Yes,
    /// There is no room for it.
    NoRoom,
}

impl Tables {
    /// The two that are always there.
    pub fn new(maps: &UnwindMaps) -> Self {
        let table = |progress| Table { module: None, progress, extents: Vec::new(), lists: 1, used_ns: 0 };
        maps.set_table(BAD_FILE, TableEntry { state: table_state::BAD, ..TableEntry::default() });
        maps.set_table(VDSO, TableEntry { state: table_state::ABSENT, ..TableEntry::default() });
        Self {
            by_number: vec![table(Progress::Bad), table(Progress::Unasked)],
            by_module: FxHashMap::default(),
            now_ns: 0,
            rows: 0,
            unannounced: Vec::new(),
        }
    }

    /// The number by which mappings of a file name its table; [`BAD_FILE`] when there is none left.
    pub fn number(&mut self, module: ModuleId, maps: &UnwindMaps) -> u32 {
        if let Some(&number) = self.by_module.get(&module) {
            self.by_number[number as usize].used_ns = self.now_ns;
            return number;
        }
        let fresh = Table {
            module: Some(module),
            progress: Progress::Unasked,
            extents: Vec::new(),
            lists: 0,
            used_ns: self.now_ns,
        };
        let number = if self.by_number.len() < TABLES as usize {
            self.by_number.push(fresh);
            self.by_number.len() as u32 - 1
        } else {
            let unused = self.by_number.iter().skip(FIRST as usize).position(|table| table.module.is_none());
            let Some(unused) = unused else { return BAD_FILE };
            self.by_number[unused + FIRST as usize] = fresh;
            unused as u32 + FIRST
        };
        maps.set_table(number, TableEntry { state: table_state::ABSENT, ..TableEntry::default() });
        self.by_module.insert(module, number);
        number
    }

    /// A file is in use.
    pub fn touch(&mut self, module: ModuleId) {
        if let Some(&number) = self.by_module.get(&module) {
            self.by_number[number as usize].used_ns = self.now_ns;
        }
    }

    /// The time (CLOCK_MONOTONIC, ns) that use is noted with from here on.
    pub fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// How far a table has come.
    pub fn progress(&self, number: u32) -> Progress {
        self.by_number.get(number as usize).map_or(Progress::Bad, |table| table.progress)
    }

    /// Notes how far a table has come, and tells the programs.
    pub fn set_progress(&mut self, number: u32, progress: Progress, maps: &UnwindMaps) {
        let Some(table) = self.by_number.get_mut(number as usize) else { return };
        table.progress = progress;
        maps.set_table_state(
            number,
            match progress {
                Progress::Unasked | Progress::Asked => table_state::ABSENT,
                Progress::Ready => table_state::READY,
                Progress::NoRoom(_) => table_state::NO_ROOM,
                Progress::Bad => table_state::BAD,
            },
        );
    }

    /// A list names these tables.
    pub fn named(&mut self, tables: &[u32]) {
        for &number in tables {
            if let Some(table) = self.by_number.get_mut(number as usize) {
                table.lists += 1;
            }
        }
    }

    /// A list that named these tables is gone, and a grace period over.
    pub fn unnamed(&mut self, tables: &[u32]) {
        for &number in tables {
            if let Some(table) = self.by_number.get_mut(number as usize) {
                table.lists = table.lists.saturating_sub(1);
            }
        }
    }

    /// Number of a module's table, if it has one.
    pub fn of(&self, module: ModuleId) -> Option<u32> {
        self.by_module.get(&module).copied()
    }

    /// Lays a file's rows out. Nothing points at what it writes until it is whole.
    pub fn lay_out(
        &mut self,
        number: u32,
        rows: &impl Rows,
        places: &mut Places,
        rules: &mut Rules,
        maps: &UnwindMaps,
    ) -> Laid {
        let mut extents = Vec::new();
        let Some((directory, count)) = write_rows(rows, places, rules, maps, &mut extents) else {
            for extent in extents {
                places.give_back(extent);
            }
            return Laid::NoRoom;
        };
        let Some(table) = self.by_number.get_mut(number as usize) else {
            for extent in extents {
                places.give_back(extent);
            }
            return Laid::NoRoom;
        };
        table.extents = extents;
        table.progress = Progress::Ready;
        self.rows += count;
        let pages = rows.pages().len() as u32;
        let found = table.is_announced(maps);
        let state = if found { table_state::READY } else { table_state::ABSENT };
        maps.set_table(number, TableEntry { state, directory, first_page: rows.first_page(), pages });
        if !found {
            self.unannounced.push(number);
        }
        Laid::Yes
    }

    /// Lets the programs use the tables whose segments they find by now.
    pub fn announce(&mut self, maps: &UnwindMaps) {
        let by_number = &self.by_number;
        self.unannounced.retain(|&number| {
            let table = by_number.get(number as usize).filter(|table| table.progress == Progress::Ready);
            if table.is_some_and(|table| table.is_announced(maps)) {
                maps.set_table_state(number, table_state::READY);
                return false;
            }
            table.is_some()
        });
    }

    /// Whether there are tables that the programs cannot use yet.
    pub fn has_unannounced(&self) -> bool {
        !self.unannounced.is_empty()
    }

    /// Takes tables out of use until `words` will be free: those that no list names first, then those used longest ago, but none
    /// used after `spared_ns`. What they had may be given away after a grace period.
    pub fn put_out(&mut self, words: u64, spared_ns: u64, maps: &UnwindMaps) -> Vec<Extent> {
        let mut order: Vec<(bool, u64, u32)> = (FIRST..)
            .zip(self.by_number.iter().skip(FIRST as usize))
            .filter(|(_, table)| table.progress == Progress::Ready && table.used_ns <= spared_ns)
            .map(|(number, table)| (table.lists > 0, table.used_ns, number))
            .collect();
        order.sort_unstable();
        let (mut extents, mut freed) = (Vec::new(), 0);
        for (_, _, number) in order {
            if freed >= words {
                break;
            }
            self.set_progress(number, Progress::NoRoom(self.now_ns), maps);
            let gone = std::mem::take(&mut self.by_number[number as usize].extents);
            freed += gone.iter().map(|extent| u64::from(extent.words)).sum::<u64>();
            extents.extend(gone);
        }
        extents
    }

    /// Forgets a module whose file was closed: its number may be used anew once no list names it. What it had may be given away
    /// after a grace period.
    pub fn forget_unnamed(&mut self, is_alive: impl Fn(ModuleId) -> bool, maps: &UnwindMaps) -> Vec<Extent> {
        let mut extents = Vec::new();
        for (number, table) in (0_u32..).zip(&mut self.by_number).skip(FIRST as usize) {
            let Some(module) = table.module else { continue };
            if table.lists == 0 && table.progress != Progress::Asked && !is_alive(module) {
                self.by_module.remove(&module);
                table.module = None;
                table.progress = Progress::Unasked;
                maps.set_table_state(number, table_state::ABSENT);
                extents.append(&mut table.extents);
            }
        }
        extents
    }

    /// Rows laid out so far, those since put out included.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// Words that a file's rows and their directory take.
pub fn words_of(rows: &impl Rows) -> u64 {
    rows.pages().map(|page| (page.len() as u64).next_multiple_of(2) + 2).sum()
}

/// Writes rows page by page into as few pieces as there is room for, and the directory. Place of the directory and number of rows.
fn write_rows(
    rows: &impl Rows,
    places: &mut Places,
    rules: &mut Rules,
    maps: &UnwindMaps,
    extents: &mut Vec<Extent>,
) -> Option<(u32, u64)> {
    let indices: Vec<u16> = rows.rules().iter().map(|rule| rules.index(*rule, maps)).collect();
    let pages = rows.pages().len();
    let mut left = words_of(rows);
    let mut piece = Extent { place: 0, words: 0 };
    let mut room = |words: u32, left: u64| -> Option<u32> {
        if piece.words < words {
            if piece.words > 0 {
                // The rest of a piece is too small for what comes next.
                places.give_back(piece);
            }
            piece = Extent { place: 0, words: 0 };
            let most = u32::try_from(left).unwrap_or(SEGMENT_WORDS).clamp(words, SEGMENT_WORDS);
            piece = places.take_between(words, most)?;
        }
        let place = piece.place;
        extents.push(Extent { place, words });
        piece = Extent { place: piece.place + words, words: piece.words - words };
        Some(place)
    };
    let mut directory = Vec::with_capacity(pages);
    let mut count = 0;
    let mut fits = true;
    for page in rows.pages() {
        let words = (page.len() as u32).next_multiple_of(2);
        if words == 0 {
            directory.push(Page::default());
            continue;
        }
        let Some(place) = room(words, left) else {
            fits = false;
            break;
        };
        left -= u64::from(words);
        count += page.len() as u64;
        let index = |rule: u16| indices.get(usize::from(rule)).copied().unwrap_or(super::UNKNOWN_RULE);
        maps.write(place, page.iter().map(|row| Row { pc_low: row.pc_low, rule: index(row.rule) }.to_word()));
        directory.push(Page { place, rows: page.len() as u32 });
    }
    let place = if fits { room((pages as u32 * 2).max(2), left) } else { None };
    if piece.words > 0 {
        places.give_back(piece);
    }
    // Neighbours are one extent: fewer to remember.
    extents.dedup_by(|next, kept| {
        let joined = kept.place + kept.words == next.place && (next.place % SEGMENT_WORDS != 0);
        if joined {
            kept.words += next.words;
        }
        joined
    });
    let place = place?;
    maps.write(place, directory.iter().flat_map(|page| [page.place, page.rows]));
    Some((place, count))
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::unwind::{lookup::Segments, lookup::search, rule, storage::PAGE_BITS};

    use super::*;
    use crate::kernel::Announcement;

    struct Made {
        first_page: u32,
        pages: Vec<Vec<Row>>,
        rules: Vec<Rule>,
    }

    impl Rows for Made {
        fn first_page(&self) -> u32 {
            self.first_page
        }
        fn pages(&self) -> impl ExactSizeIterator<Item = &[Row]> {
            self.pages.iter().map(Vec::as_slice)
        }
        fn rules(&self) -> &[Rule] {
            &self.rules
        }
    }

    /// `pages` pages of `rows` rows, with rules of their own.
    fn made(pages: usize, rows: usize, first_offset: i32) -> Made {
        let mut rules = rule::well_known().to_vec();
        rules.extend((0..8).map(|at| Rule::rsp(first_offset + 8 * at)));
        let page = (0..rows).map(|at| Row { pc_low: (at * 2) as u16, rule: 4 + (at % 8) as u16 }).collect();
        Made { first_page: 3, pages: vec![page; pages], rules }
    }

    struct Scene {
        maps: UnwindMaps,
        places: Places,
        rules: Rules,
        tables: Tables,
    }

    fn scene(segments: u32) -> Result<Scene, Box<dyn std::error::Error>> {
        let mut maps = UnwindMaps::in_memory()?;
        let mut places = Places::default();
        for _ in 0..segments {
            let (number, announcement) = maps.add_segment()?;
            Announcement::make(&[announcement])?;
            places.add_segment(number);
        }
        let (rules, tables) = (Rules::new(&maps), Tables::new(&maps));
        Ok(Scene { maps, places, rules, tables })
    }

    impl Scene {
        fn lay_out(&mut self, module: u32, rows: &Made) -> (u32, Laid) {
            let number = self.tables.number(ModuleId(module), &self.maps);
            (number, self.tables.lay_out(number, rows, &mut self.places, &mut self.rules, &self.maps))
        }

        fn check(&self, number: u32, rows: &Made) {
            let maps = &self.maps;
            let Some(entry) = maps.table(number) else { panic!("no entry") };
            for page in 0..rows.pages.len() as u64 {
                for row in &rows.pages[page as usize] {
                    let offset = ((u64::from(rows.first_page) + page) << PAGE_BITS) + u64::from(row.pc_low) + 1;
                    let found = maps.rule(search(&maps, entry, offset));
                    assert_eq!(found, Some(rows.rules[usize::from(row.rule)].to_word()));
                }
            }
            assert_eq!(search(&maps, entry, 0), rule::NO_INFO);
        }
    }

    #[test]
    fn tables_of_all_sizes_are_found_again_row_by_row() -> Result<(), Box<dyn std::error::Error>> {
        let mut scene = scene(3)?;
        // The second is larger than a segment, and so lies in several.
        let all = [made(2, 100, 8), made(120, 3000, 64), made(1, 1, 8)];
        let numbers: Vec<u32> = all
            .iter()
            .zip(0..)
            .map(|(rows, module)| {
                let (number, laid) = scene.lay_out(module, rows);
                assert_eq!(laid, Laid::Yes);
                number
            })
            .collect();
        for (rows, number) in all.iter().zip(numbers) {
            scene.check(number, rows);
        }
        assert_eq!(scene.tables.rows(), 200 + 360_000 + 1);
        assert_eq!(scene.rules.len(), 4 + 8 + 8 - 1, "rsp+64 is in both");
        Ok(())
    }

    #[test]
    fn a_table_without_room_leaves_everything_as_it_was() -> Result<(), Box<dyn std::error::Error>> {
        let mut scene = scene(1)?;
        let free = scene.places.free_words();
        assert_eq!(scene.lay_out(1, &made(120, 3000, 8)).1, Laid::NoRoom);
        assert_eq!(scene.places.free_words(), free);
        let small = made(3, 500, 8);
        let (number, laid) = scene.lay_out(2, &small);
        assert_eq!(laid, Laid::Yes);
        scene.check(number, &small);
        assert_eq!(scene.places.free_words(), free - words_of(&small));
        Ok(())
    }

    #[test]
    fn those_that_nobody_names_go_first_then_those_used_longest_ago() -> Result<(), Box<dyn std::error::Error>> {
        let mut scene = scene(1)?;
        let rows = made(4, 1000, 8);
        let numbers: Vec<u32> = (0..4).map(|module| scene.lay_out(module, &rows).0).collect();
        scene.tables.named(&numbers[..3]);
        scene.tables.tick(50);
        scene.tables.touch(ModuleId(0));
        scene.tables.tick(77);
        scene.tables.touch(ModuleId(1));
        let words = words_of(&rows);
        let gone = scene.tables.put_out(words + 1, 60, &scene.maps);
        let freed: u64 = gone.iter().map(|extent| u64::from(extent.words)).sum();
        assert_eq!(freed, 2 * words);
        let state = |number: u32| scene.tables.progress(number);
        assert_eq!([3, 2].map(|at| state(numbers[at])), [Progress::NoRoom(77); 2]);
        assert_eq!([0, 1].map(|at| state(numbers[at])), [Progress::Ready; 2]);
        Ok(())
    }

    #[test]
    fn numbers_are_used_anew_and_run_out_without_harm() -> Result<(), Box<dyn std::error::Error>> {
        let mut scene = scene(1)?;
        for module in 0..TABLES - FIRST {
            assert_ne!(scene.tables.number(ModuleId(module), &scene.maps), BAD_FILE);
        }
        assert_eq!(scene.tables.number(ModuleId(99_999), &scene.maps), BAD_FILE);
        scene.tables.forget_unnamed(|module| module.0 != 77, &scene.maps);
        assert_eq!(scene.tables.number(ModuleId(99_999), &scene.maps), 77 + FIRST);
        Ok(())
    }
}
