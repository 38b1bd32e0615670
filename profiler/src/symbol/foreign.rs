//! Names of files that may not answer. In: a module. Out: what names its functions, as [`gather`](super::user::gather) finds it, but
//! read by threads that may be left behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Unresolved;
use super::elf::{CopyOptions, ElfCopy};
use super::separate::{self, Places};
use super::user::{Gathered, made_names, own_copy, wants_separate};
use crate::process::{Dependency, ForeignFile, ForeignFiles, Module, Patience, ReadError, Subject, Urgency};

/// Copies whatever names the functions of a module. What does not answer is left out, and noted. `checksums` is how many bytes of
/// separate files may be read for theirs.
pub(crate) fn gather(
    module: &Arc<Module>,
    options: CopyOptions,
    debug: &Path,
    checksums: u64,
) -> Result<Gathered, Unresolved> {
    let file = file_of(module)?;
    let copy = read(file, move |file| own_copy(file, options))??;
    let mut gathered = Gathered::new(copy, checksums);
    if wants_separate(gathered.own(), options) {
        gathered = find_separate(module, file.files(), gathered, options, debug)?;
    }
    if gathered.is_nameless() {
        gathered = read(file, move |file| made_names(file, gathered))?;
    }
    Ok(gathered)
}

/// The file of a module.
pub(crate) fn file_of(module: &Module) -> Result<&Arc<ForeignFile>, Unresolved> {
    let missing = if module.is_unanswered() { Unresolved::Unanswered } else { Unresolved::NoFile };
    module.file().ok_or(missing)
}

/// Reads a file. Readers are other people's code over other people's data: they may fail, but not take the recording with them.
pub(crate) fn read<T: Send + 'static>(
    file: &Arc<ForeignFile>,
    work: impl FnOnce(&std::fs::File) -> T + Send + 'static,
) -> Result<T, Unresolved> {
    let guarded = file.read(Urgency::Ordinary, |file| catch_unwind(AssertUnwindSafe(|| work(file))));
    guarded.map_err(reason)?.map_err(|_| Unresolved::ParserFailed)
}

fn reason(error: ReadError) -> Unresolved {
    match error {
        ReadError::Unanswered(_) => Unresolved::Unanswered,
        ReadError::Unreadable => Unresolved::Unreadable,
    }
}

/// Looks below the container's root, then below ours: each may hang for itself.
fn find_separate(
    module: &Arc<Module>,
    files: &ForeignFiles,
    mut gathered: Gathered,
    options: CopyOptions,
    debug: &Path,
) -> Result<Gathered, Unresolved> {
    let container = module.root_subject().cloned();
    let ours = Subject::of_host(Dependency::DebugFolder);
    for (subject, in_container) in container.map(|subject| (subject, true)).into_iter().chain([(ours, false)]) {
        // What is handed over would be lost with the question.
        if !files.may_ask(&subject) {
            gathered.is_partial = true;
            continue;
        }
        let (module, debug): (Arc<Module>, PathBuf) = (module.clone(), debug.to_owned());
        let look = move || {
            catch_unwind(AssertUnwindSafe(move || {
                let root = if in_container { module.root() } else { None };
                let places = Places { root, path: module.path(), debug: &debug };
                let mut left = gathered.checksums;
                let found = separate::find_below(gathered.own(), root, places, options, &mut left);
                gathered.checksums = left;
                (gathered, found)
            }))
        };
        let looked = files.ask(&subject, Patience::Work, Urgency::Ordinary, look);
        let found: Option<ElfCopy>;
        (gathered, found) = looked.map_err(|_| Unresolved::Unanswered)?.map_err(|_| Unresolved::ParserFailed)?;
        if let Some(found) = found {
            gathered.add_separate(found);
            break;
        }
    }
    Ok(gathered)
}
