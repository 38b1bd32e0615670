//! The walker over stacks and tables made up for the purpose.

extern crate std;

use std::{collections::BTreeMap, vec, vec::Vec};

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::{
    Mapping, Memory, Row, Rule, Stop, TableEntry, Tables, Walk,
    lookup::{Lookup, Segments, search},
    rule,
    storage::{NO_FILE, PAGE_BITS, PLACE_BITS, ROWS, table_state},
    walk::{flag, walk_all},
};

/// Words by address.
#[derive(Default)]
struct Words(BTreeMap<u64, u64>);

impl Memory for Words {
    fn word(&mut self, address: u64) -> Option<u64> {
        self.0.get(&address).copied()
    }
}

/// Rules by first address.
struct Rules(BTreeMap<u64, Rule>);

impl Tables for Rules {
    fn rule(&mut self, address: u64) -> Result<Rule, Stop> {
        self.0.range(..=address).next_back().map(|(_, rule)| *rule).ok_or(Stop::NoMapping)
    }
}

/// One segment, one table, one list of mappings.
#[derive(Clone)]
struct Store {
    words: Vec<u32>,
    tables: Vec<TableEntry>,
    rules: Vec<Rule>,
}

impl Segments for &Store {
    type Segment = u32;

    fn segment(&self, number: u32) -> Option<u32> {
        (number == 0).then_some(0)
    }

    fn word(&self, _: u32, place: u32) -> u32 {
        self.words.get((place & ((1 << PLACE_BITS) - 1)) as usize).copied().unwrap_or(0)
    }

    fn long(&self, segment: u32, place: u32) -> u64 {
        u64::from(self.word(segment, place)) | u64::from(self.word(segment, place.wrapping_add(1))) << 32
    }

    fn table(&self, number: u32) -> Option<TableEntry> {
        self.tables.get(number as usize).copied()
    }

    fn rule(&self, index: u16) -> Option<u64> {
        self.rules.get(usize::from(index)).map(|rule| rule.to_word())
    }
}

/// Lays rows out as the loader does.
fn store(pages: &[Vec<Row>], first_page: u32) -> Store {
    let mut words = vec![0; 2 * pages.len()];
    for (number, rows) in pages.iter().enumerate() {
        words[2 * number] = words.len() as u32;
        words[2 * number + 1] = rows.len() as u32;
        words.extend(rows.iter().map(|row| row.to_word()));
    }
    let entry = TableEntry { state: table_state::READY, directory: 0, first_page, pages: pages.len() as u32 };
    Store { words, tables: vec![entry], rules: rule::well_known().to_vec() }
}

fn push_mappings(store: &mut Store, mappings: &[Mapping]) -> u32 {
    if store.words.len() % 2 == 1 {
        store.words.push(0);
    }
    let place = store.words.len() as u32;
    for mapping in mappings {
        for long in [mapping.start, mapping.end, mapping.offset, u64::from(mapping.table)] {
            store.words.extend([long as u32, (long >> 32) as u32]);
        }
    }
    place
}

/// How a function of a made-up program keeps its frame.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// No frame pointer; this many words of locals, rbp untouched.
    Leafy(u8),
    /// No frame pointer, rbp saved beside the return address and used for something else.
    Clobbers(u8),
    /// No frame pointer, rbp saved deep in the frame.
    SavesDeep(u8),
    /// `push %rbp; mov %rsp, %rbp`, with unwind information.
    Framed(u8),
    /// The same without unwind information.
    Silent(u8),
    /// The stack realigned, the CFA kept at rbp - 8.
    Realigned(u8),
}

/// Builds the stack of a chain of such functions, the outermost first, and returns where the innermost stands, the rules, the
/// memory, and the frames that must be found.
fn program(shapes: &[Shape]) -> (Walk, Rules, Words, Vec<u64>) {
    let mut rules = BTreeMap::new();
    let mut memory = Words::default();
    let code = |number: usize| 0x1000 + number as u64 * 0x100;
    rules.insert(code(0), Rule::end());
    let (mut sp, mut bp) = (0x7fff_0000_u64, 0_u64);
    let mut frames = vec![code(0) + 0x20];
    for (number, shape) in shapes.iter().enumerate() {
        let number = number + 1;
        sp -= 8;
        memory.0.insert(sp, code(number - 1) + 0x20);
        let cfa = sp + 8;
        let rule = match *shape {
            Shape::Leafy(locals) => {
                sp -= 8 * u64::from(locals);
                Rule::rsp((cfa - sp) as i32)
            }
            Shape::Clobbers(locals) => {
                sp -= 8;
                memory.0.insert(sp, bp);
                bp = 0xdead_beef;
                sp -= 8 * u64::from(locals);
                Rule::rsp((cfa - sp) as i32).with_rbp_at_cfa(-16)
            }
            Shape::SavesDeep(locals) => {
                sp -= 8 * (u64::from(locals) + 2);
                memory.0.insert(sp, bp);
                bp = 0x1234_5678;
                Rule::rsp((cfa - sp) as i32).with_rbp_at_cfa((sp.wrapping_sub(cfa)) as i16)
            }
            Shape::Framed(locals) | Shape::Silent(locals) => {
                sp -= 8;
                memory.0.insert(sp, bp);
                bp = sp;
                sp -= 8 * u64::from(locals);
                match shape {
                    Shape::Framed(_) => Rule::rbp(16).with_rbp_at_cfa(-16),
                    _ => Rule::no_info(),
                }
            }
            Shape::Realigned(locals) => {
                sp &= !63;
                sp -= 8;
                memory.0.insert(sp, cfa - 8);
                sp -= 8;
                memory.0.insert(sp, bp);
                bp = sp;
                sp -= 8;
                memory.0.insert(sp, cfa);
                sp -= 8 * u64::from(locals);
                Rule::deref_rbp(-8, 0).with_rbp_at_rbp(0)
            }
        };
        rules.insert(code(number), rule);
        frames.push(code(number) + 0x20);
    }
    frames.reverse();
    (Walk::from_registers(frames[0], sp, bp), Rules(rules), memory, frames)
}

fn shape() -> impl proptest::strategy::Strategy<Value = Shape> {
    use proptest::strategy::Strategy;
    (0_u8..6, any::<u8>()).prop_map(|(kind, locals)| match kind {
        0 => Shape::Leafy(locals),
        1 => Shape::Clobbers(locals),
        2 => Shape::SavesDeep(locals),
        3 => Shape::Framed(locals),
        4 => Shape::Silent(locals),
        _ => Shape::Realigned(locals),
    })
}

proptest! {
    #[test]
    fn every_mixture_of_frames_is_walked_to_its_end(shapes in prop::collection::vec(shape(), 0..60)) {
        let (mut walk, mut rules, mut memory, frames) = program(&shapes);
        let mut found = [0; 64];
        let (count, stop) = walk_all(&mut walk, &mut memory, &mut rules, &mut found);
        prop_assert_eq!(&found[..count], &frames[..]);
        prop_assert_eq!(stop, Stop::End);
    }

    #[test]
    fn the_rule_of_an_offset_is_that_of_the_last_row_at_or_below_it(
        pages in prop::collection::vec(prop::collection::btree_map(0..ROWS as u16, 0_u16..4, 0..200), 0..5),
        first_page in 0_u32..1000,
        offsets in prop::collection::vec(any::<u32>(), 50),
    ) {
        let pages: Vec<Vec<Row>> = pages.into_iter().map(|mut page| {
            if !page.is_empty() {
                page.entry(0).or_insert(2);
            }
            page.into_iter().map(|(pc_low, rule)| Row { pc_low, rule }).collect()
        }).collect();
        let store = store(&pages, first_page);
        for offset in offsets {
            let offset = u64::from(offset) % ((u64::from(first_page) + 7) << PAGE_BITS);
            let page = (offset >> PAGE_BITS).checked_sub(u64::from(first_page)).and_then(|page| pages.get(page as usize));
            let row = page.and_then(|rows| rows.iter().rfind(|row| u64::from(row.pc_low) <= offset & u64::from(ROWS - 1)));
            prop_assert_eq!(search(&&store, store.tables[0], offset), row.map_or(rule::NO_INFO, |row| row.rule));
        }
    }

    #[test]
    fn the_mapping_of_an_address_is_found_among_any_number(sizes in prop::collection::vec((1_u64..9, 0_u64..3), 0..70)) {
        let mut at = 0x40_0000;
        let mappings: Vec<Mapping> = sizes.iter().map(|(pages, gap)| {
            let start = at + gap * 4096;
            at = start + pages * 4096;
            Mapping { start, end: at, offset: 0, table: NO_FILE, reserved: 0 }
        }).collect();
        let mut store = store(&[], 0);
        let place = push_mappings(&mut store, &mappings);
        let mut lookup = Lookup::new(&store, place, mappings.len() as u32);
        for address in (0x3f_f000..at + 8192).step_by(2048) {
            let inside = mappings.iter().any(|mapping| mapping.start <= address && address < mapping.end);
            prop_assert_eq!(lookup.rule(address), if inside { Ok(Rule::no_info()) } else { Err(Stop::NoMapping) });
        }
    }

    #[test]
    fn no_table_and_no_memory_make_the_walk_panic_or_go_on_for_ever(
        words in prop::collection::vec(any::<u32>(), 0..400),
        entry in any::<[u32; 3]>(),
        list in any::<[u32; 2]>(),
        rules in prop::collection::vec(any::<u64>(), 0..40),
        registers in any::<[u64; 3]>(),
        stack in any::<[u64; 16]>(),
    ) {
        let [directory, first_page, pages] = entry;
        let store = Store {
            words,
            tables: vec![TableEntry { state: table_state::READY, directory, first_page, pages }],
            rules: rules.into_iter().map(Rule::from_word).collect(),
        };
        let mut lookup = Lookup::new(&store, list[0], list[1]);
        let mut frames = [0; 40];
        let mut walk = Walk::from_registers(registers[0], registers[1], registers[2]);
        let (count, _) = walk_all(&mut walk, &mut Anything(stack), &mut lookup, &mut frames);
        prop_assert!(count <= 40);
    }
}

/// Memory in which something can be read everywhere.
struct Anything([u64; 16]);

impl Memory for Anything {
    fn word(&mut self, address: u64) -> Option<u64> {
        self.0.get((address % 17) as usize).copied()
    }
}

#[test]
fn a_mapping_that_is_not_ready_says_why() {
    for (state, stop) in
        [(table_state::ABSENT, Stop::NoTable), (table_state::NO_ROOM, Stop::NoRoom), (table_state::BAD, Stop::BadFile)]
    {
        let mut store = store(&[], 0);
        store.tables[0].state = state;
        let mapping = Mapping { start: 0x1000, end: 0x2000, offset: 0, table: 0, reserved: 0 };
        let place = push_mappings(&mut store, &[mapping]);
        let mut lookup = Lookup::new(&store, place, 1);
        assert_eq!(lookup.rule(0x1800), Err(stop));
        assert_eq!(lookup.table_number(), 0);
        assert_eq!(lookup.rule(0x2000), Err(Stop::NoMapping));
    }
}

#[test]
fn a_return_address_is_looked_up_inside_the_call_and_a_signalled_one_where_it_is() {
    let mut memory = Words::default();
    let mut rules = Rules(BTreeMap::new());
    // The handler's caller is the way back, which shows the registers of what was interrupted at its very first byte.
    rules.0.insert(0x1000, Rule::rsp(8));
    rules.0.insert(0x1fff, Rule::signal());
    rules.0.insert(0x3000, Rule::unsupported());
    rules.0.insert(0x4000, Rule::end());
    rules.0.insert(0x5000, Rule::unsupported());
    memory.0.insert(0x7000, 0x2000);
    for (at, value) in [(120, 0xb9), (160, 0x6000), (168, 0x4000)] {
        memory.0.insert(0x7008 + at, value);
    }
    let mut walk = Walk::from_registers(0x1004, 0x7000, 1);
    let mut frames = [0; 8];
    let (count, stop) = walk_all(&mut walk, &mut memory, &mut rules, &mut frames);
    assert_eq!((&frames[..count], stop), (&[0x1004, 0x2000, 0x4001][..], Stop::End));
    assert_eq!((walk.sp, walk.bp, walk.flags), (0x6000, 0xb9, flag::EXACT));
    // A call that ends its function returns to what is another's first byte.
    memory.0.insert(0x7000, 0x5000);
    let mut walk = Walk::from_registers(0x1004, 0x7000, 1);
    let (count, stop) = walk_all(&mut walk, &mut memory, &mut rules, &mut frames);
    assert_eq!((&frames[..count], stop), (&[0x1004, 0x5000][..], Stop::End));
}

#[test]
fn a_linkage_table_entry_has_pushed_from_some_byte_on() {
    let mut rules = Rules(BTreeMap::from([(0x1000, Rule::plt(11)), (0x2000, Rule::end())]));
    let mut memory = Words(BTreeMap::from([(0x7000, 0x2005), (0x6ff8, 3)]));
    for (pc, sp) in [(0x1010, 0x7000), (0x101a, 0x7000), (0x101b, 0x6ff8), (0x102f, 0x6ff8)] {
        let mut walk = Walk::from_registers(pc, sp, 1);
        let mut frames = [0; 8];
        let (count, stop) = walk_all(&mut walk, &mut memory, &mut rules, &mut frames);
        assert_eq!((&frames[..count], stop), (&[pc, 0x2005][..], Stop::End));
        assert_eq!(walk.sp, 0x7008);
    }
}

#[test]
fn a_return_address_in_a_register_is_followed_from_the_innermost_frame_only() {
    let mut rules =
        Rules(BTreeMap::from([(0x1000, Rule::return_in_rdi(0)), (0x2000, Rule::rsp(16)), (0x3000, Rule::end())]));
    let mut memory = Words(BTreeMap::from([(0x7008, 0x3005)]));
    let mut frames = [0; 8];
    let mut walk = Walk::from_registers(0x1008, 0x7000, 0xb).with_rdi(0x2005);
    let (count, stop) = walk_all(&mut walk, &mut memory, &mut rules, &mut frames);
    assert_eq!((&frames[..count], stop), (&[0x1008, 0x2005, 0x3005][..], Stop::End));
    assert_eq!((walk.sp, walk.bp, walk.flags), (0x7010, 0xb, 0));
    let mut walk = Walk::from_registers(0x1008, 0x7000, 0xb);
    assert_eq!(walk_all(&mut walk, &mut memory, &mut rules, &mut frames), (1, Stop::LostRegister));
    // A caller's frame does not keep it.
    memory.0.insert(0x7008, 0x1005);
    let mut walk = Walk::from_registers(0x2008, 0x7000, 0xb).with_rdi(0x2005);
    assert_eq!(walk_all(&mut walk, &mut memory, &mut rules, &mut frames), (2, Stop::LostRegister));
    // Nor is it followed for ever.
    let mut walk = Walk::from_registers(0x1008, 0x7000, 0xb).with_rdi(0x1008);
    assert_eq!(walk_all(&mut walk, &mut memory, &mut rules, &mut frames), (2, Stop::LostRegister));
    rules.0.insert(0x1000, Rule::return_in_rdi(-8));
    let mut walk = Walk::from_registers(0x1008, 0x7000, 0xb).with_rdi(0x2005);
    assert_eq!(walk_all(&mut walk, &mut memory, &mut rules, &mut frames), (1, Stop::NotProgressing));
}

#[test]
fn broken_stacks_stop_with_a_reason() {
    let walked = |rules: &[(u64, Rule)], memory: &[(u64, u64)], sp: u64, bp: u64| {
        let mut rules = Rules(rules.iter().copied().collect());
        let mut memory = Words(memory.iter().copied().collect());
        let mut walk = Walk::from_registers(0x1000, sp, bp);
        let (_, stop) = walk_all(&mut walk, &mut memory, &mut rules, &mut [0; 20]);
        stop
    };
    assert_eq!(walked(&[], &[], 0x7000, 0), Stop::NoMapping);
    assert_eq!(walked(&[(0, Rule::rsp(8))], &[], 0x7000, 0), Stop::Unreadable);
    assert_eq!(walked(&[(0, Rule::rsp(8))], &[(0x7000, 0)], 0x7000, 0), Stop::NullReturn);
    assert_eq!(walked(&[(0, Rule::rbp(16))], &[(0x6008, 1)], 0x7000, 0x6000), Stop::NotProgressing);
    assert_eq!(walked(&[(0, Rule::unsupported())], &[], 0x7000, 0), Stop::UnsupportedRule);
    assert_eq!(walked(&[(0, Rule::no_info())], &[], 0x7000, 0), Stop::FramePointerEnd);
    assert_eq!(walked(&[(0, Rule::no_info())], &[], 0x7000, 0x7003), Stop::NoFramePointer);
    assert_eq!(walked(&[(0, Rule::no_info())], &[], 0x7000, 0x7100), Stop::NoFramePointer);
    let cycle = [(0x7100, 0x7200), (0x7108, 1), (0x7200, 0x7100), (0x7208, 1)];
    assert_eq!(walked(&[(0, Rule::no_info())], &cycle, 0x7000, 0x7100), Stop::NotProgressing);
    let lost = [(0x500, Rule::rsp(8).with_rbp_undefined()), (0x1001, Rule::rbp(16))];
    assert_eq!(walked(&lost, &[(0x7000, 0x1900)], 0x7000, 0), Stop::LostRegister);
    let endless: Vec<(u64, u64)> = (0..30).map(|word| (0x7000 + 8 * word, 0x1000)).collect();
    assert_eq!(walked(&[(0, Rule::rsp(8))], &endless, 0x7000, 0), Stop::TooDeep);
}
