//! Stacks as a tree, for whoever draws them. In: one profile, or two to compare. Out: nested nodes with the values of both.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::{
    output::{
        Kind, OutputError, Scope, WriteOptions,
        report_json::Window,
        rows::{Label, Part, Rows},
    },
    profile::{FrameKind, Profile},
};

/// The answer.
#[derive(Debug, Serialize)]
pub struct Flame {
    /// The stretch of time.
    pub window: Window,
    /// The stretch compared with.
    pub base_window: Option<Window>,
    /// `cpu`, `offcpu` or `wall`.
    pub kind: &'static str,
    /// Unit of all values.
    pub unit: &'static str,
    /// Value of everything.
    pub total: u64,
    /// The same in the range compared with.
    pub base_total: Option<u64>,
    /// Branches too small to be drawn.
    pub left_out: LeftOut,
    /// Texts of nodes.
    pub names: Vec<String>,
    /// Modules or source files of nodes.
    pub modules: Vec<String>,
    /// The tree.
    pub root: Node,
}

/// What is in no node.
#[derive(Debug, Default, Serialize)]
pub struct LeftOut {
    /// Branches.
    pub nodes: u64,
    /// Their value.
    pub value: u64,
}

/// One node.
#[derive(Debug, Serialize)]
pub struct Node {
    /// Position of its text.
    pub n: usize,
    /// Position of its module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub m: Option<usize>,
    /// What it stands for.
    pub t: &'static str,
    /// Value of it and all below it.
    pub v: u64,
    /// The same in the range compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<u64>,
    /// What it called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Node>,
}

/// A node while values are added.
#[derive(Default)]
struct Branch {
    value: u64,
    base: u64,
    children: BTreeMap<usize, Branch>,
}

/// The labels of both profiles, each once.
#[derive(Default)]
struct Interned {
    labels: Vec<Label>,
    places: FxHashMap<Label, usize>,
}

impl Interned {
    fn place(&mut self, label: &Label) -> usize {
        if let Some(place) = self.places.get(label) {
            return *place;
        }
        self.labels.push(label.clone());
        self.places.insert(label.clone(), self.labels.len() - 1);
        self.labels.len() - 1
    }
}

/// The tree of `profile`, perhaps beside that of `base`; branches below `min_share` of the whole in both are left out.
pub fn flame(
    profile: &Profile,
    base: Option<&Profile>,
    kind: Option<Kind>,
    options: &WriteOptions,
    min_share: f64,
) -> Result<Flame, OutputError> {
    let kind = Kind::choose(kind, profile)?;
    let mut interned = Interned::default();
    let mut root = Branch::default();
    let scope = Scope { profile, selected: options.selection.resolve(profile)?, options };
    add(&Rows::collect(&scope, kind)?, &mut interned, &mut root, |branch, value| branch.value += value);
    if let Some(base) = base {
        // What is selected now may not have been there then.
        let scope = Scope { profile: base, selected: options.selection.matching(base), options };
        if kind.is_recorded(base) {
            add(&Rows::collect(&scope, kind)?, &mut interned, &mut root, |branch, value| branch.base += value);
        }
    }
    let least = [(root.value as f64 * min_share) as u64, (root.base as f64 * min_share) as u64];
    let mut drawing = Drawing { comparing: base.is_some(), least, ..Drawing::new(&interned) };
    let (total, base_total) = (root.value, root.base);
    let root = drawing.node(None, root);
    Ok(Flame {
        window: Window::of(profile),
        base_window: base.map(Window::of),
        kind: match kind {
            Kind::Cpu => "cpu",
            Kind::OffCpu => "offcpu",
            Kind::Wall => "wall",
        },
        unit: if kind == Kind::Cpu { "samples" } else { "microseconds" },
        total,
        base_total: base.map(|_| base_total),
        left_out: drawing.left_out,
        names: drawing.names,
        modules: drawing.modules,
        root,
    })
}

fn add(rows: &Rows, interned: &mut Interned, root: &mut Branch, count: impl Fn(&mut Branch, u64)) {
    let places: Vec<usize> = rows.labels.iter().map(|label| interned.place(label)).collect();
    for row in &rows.rows {
        let mut branch = &mut *root;
        count(branch, row.value);
        for place in row.labels.iter().filter_map(|label| places.get(*label)) {
            branch = branch.children.entry(*place).or_default();
            count(branch, row.value);
        }
    }
}

/// Branches on their way to nodes.
struct Drawing<'i> {
    interned: &'i Interned,
    comparing: bool,
    least: [u64; 2],
    left_out: LeftOut,
    names: Vec<String>,
    modules: Vec<String>,
    name_places: FxHashMap<&'i str, usize>,
    module_places: FxHashMap<&'i str, usize>,
}

impl<'i> Drawing<'i> {
    fn new(interned: &'i Interned) -> Self {
        Self {
            interned,
            comparing: false,
            least: [0; 2],
            left_out: LeftOut::default(),
            names: Vec::new(),
            modules: Vec::new(),
            name_places: FxHashMap::default(),
            module_places: FxHashMap::default(),
        }
    }

    /// Stacks are bounded in depth (two walks of [`profiler_ebpf::MAX_FRAMES`] and what is inlined), so this is as well.
    fn node(&mut self, place: Option<usize>, branch: Branch) -> Node {
        let label = place.and_then(|place| self.interned.labels.get(place));
        let (text, part) = label.map_or(("all", None), |label| (label.text.as_str(), Some(label.part)));
        let n = intern(text, &mut self.names, &mut self.name_places);
        let module = label.map(|label| label.file.as_str()).filter(|file| !file.is_empty());
        let m = module.map(|module| intern(module, &mut self.modules, &mut self.module_places));
        let mut children = Vec::with_capacity(branch.children.len());
        for (place, child) in branch.children {
            let [least, least_base] = self.least;
            if child.value < least.max(1) && child.base < least_base.max(1) {
                self.left_out.nodes += 1;
                self.left_out.value += child.value;
            } else {
                children.push(self.node(Some(place), child));
            }
        }
        let names = &self.names;
        children.sort_by(|a, b| (names.get(a.n), a.t).cmp(&(names.get(b.n), b.t)));
        Node { n, m, t: kind_of(part), v: branch.value, b: self.comparing.then_some(branch.base), children }
    }
}

fn intern<'i>(text: &'i str, texts: &mut Vec<String>, places: &mut FxHashMap<&'i str, usize>) -> usize {
    *places.entry(text).or_insert_with(|| {
        texts.push(text.to_owned());
        texts.len() - 1
    })
}

fn kind_of(part: Option<Part>) -> &'static str {
    match part {
        None => "root",
        Some(Part::Container) => "container",
        Some(Part::Process) => "process",
        Some(Part::Thread) => "thread",
        Some(Part::Frame(FrameKind::User)) => "user",
        Some(Part::Frame(FrameKind::UserInlined)) => "inlined",
        Some(Part::Frame(FrameKind::Kernel)) => "kernel",
        Some(Part::Frame(FrameKind::Unresolved)) => "unresolved",
        Some(Part::Frame(FrameKind::Note)) => "note",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Selection, testing};

    fn check(node: &Node) -> u64 {
        let below: u64 = node.children.iter().map(check).sum();
        assert!(below <= node.v, "children never hold more than their parent");
        node.v
    }

    #[test]
    fn the_tree_holds_every_sample_once() {
        let profile = testing::profile();
        let flame = flame(&profile, None, None, &WriteOptions::default(), 0.0).unwrap_or_else(|e| panic!("{e}"));
        let samples: u64 = profile.on_cpu.iter().map(|sample| sample.count).sum();
        assert_eq!((flame.total, flame.root.v, check(&flame.root)), (samples, samples, samples));
        assert_eq!(flame.left_out.nodes, 0);
        let containers: u64 = flame.root.children.iter().map(|child| child.v).sum();
        assert_eq!(containers, samples);
        assert!(flame.root.children.iter().all(|child| child.t == "container" && child.b.is_none()));
    }

    #[test]
    fn two_ranges_stand_beside_each_other_in_one_tree() {
        let (now, mut then) = (testing::profile(), testing::profile());
        for sample in &mut then.on_cpu {
            sample.count *= 2;
        }
        then.on_cpu.remove(0);
        let flame =
            flame(&now, Some(&then), Some(Kind::Cpu), &WriteOptions::default(), 0.0).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(flame.base_total, Some((flame.total - 300) * 2));
        assert_eq!(flame.root.b, flame.base_total);
    }

    #[test]
    fn small_branches_are_left_out_and_counted() {
        let profile = testing::profile();
        let options = WriteOptions::default();
        let flame = flame(&profile, None, Some(Kind::Cpu), &options, 0.1).unwrap_or_else(|e| panic!("{e}"));
        assert!(flame.left_out.nodes > 0 && flame.left_out.value > 0);
        assert_eq!(flame.root.v, flame.total);
    }

    #[test]
    fn a_container_that_was_not_there_then_is_compared_with_nothing() {
        let (now, mut then) = (testing::profile(), testing::profile());
        then.containers[1].name = "another".to_owned();
        then.containers[1].container = None;
        let selection = Selection { containers: vec!["db".to_owned()], ..Selection::default() };
        let options = WriteOptions { selection, ..WriteOptions::default() };
        let flame = flame(&now, Some(&then), Some(Kind::Cpu), &options, 0.0).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((flame.total, flame.base_total), (405, Some(0)));
    }
}
