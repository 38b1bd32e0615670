//! Patterns match what users mean by them.

use super::{Selection, SelectionError};
use crate::profile::testing::profile;
use crate::profile::{ContainerIndex, Profile};

fn selected(selection: &Selection) -> Result<Vec<u32>, SelectionError> {
    let selected = selection.resolve(&profile())?;
    Ok((0..5).filter(|index| selected.contains(ContainerIndex(*index))).collect())
}

fn containers(patterns: &[&str]) -> Selection {
    Selection { containers: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(), ..Selection::default() }
}

#[test]
fn containers_match_by_name_id_prefix_and_glob() {
    let cases: [(&[&str], &[u32]); 8] = [
        (&[], &[0, 1, 2, 3]),
        (&["db"], &[1]),
        (&["nginx"], &[0]),
        (&["b71"], &[1]),
        (&["3fa9c1b2d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789abcde"], &[0]),
        (&["shop/*"], &[0]),
        (&["d*"], &[1, 2]),
        (&["db", "host"], &[1, 3]),
    ];
    for (patterns, expected) in cases {
        assert_eq!(selected(&containers(patterns)), Ok(expected.to_vec()), "{patterns:?}");
    }
}

#[test]
fn kinds_of_patterns_narrow_each_other() {
    let selection =
        Selection { pods: vec!["web-*".to_owned()], namespaces: vec!["shop".to_owned()], ..containers(&["*"]) };
    assert_eq!(selected(&selection), Ok(vec![0]));
    let nobody = Selection { pods: vec!["web-*".to_owned()], ..containers(&["db"]) };
    assert_eq!(selected(&nobody), Err(SelectionError::Empty));
    assert!(Selection::default().is_everything() && !nobody.is_everything());
}

#[test]
fn an_unknown_pattern_lists_what_exists() {
    let message = |selection: &Selection| selected(selection).map_err(|error| error.to_string());
    let listed = "there are db, docker.service, host, shop/web-7d4b9/nginx";
    for pattern in ["b7", "nothing", "web[", "d?"] {
        let expected = Err(format!("no container matches '{pattern}'; {listed}"));
        let found = message(&containers(&["host", pattern]));
        assert!(found == expected || pattern == "d?", "{found:?}");
    }
    let pod = Selection { pods: vec!["api".to_owned()], ..Selection::default() };
    assert_eq!(message(&pod), Err("no pod matches 'api'; there is only web-7d4b9".to_owned()));
    let namespace = Selection { namespaces: vec!["x".to_owned()], ..Selection::default() };
    let error = namespace.resolve(&Profile::default()).map(|_| ()).map_err(|error| error.to_string());
    assert_eq!(error, Err("no namespace matches 'x'; there is none".to_owned()));
}

#[test]
fn a_name_with_the_signs_of_a_glob_matches_itself() {
    let mut source = profile();
    source.containers[1].name = "job[1]".to_owned();
    let selected = containers(&["job[1]"]).resolve(&source);
    assert!(selected.is_ok_and(|selected| selected.contains(ContainerIndex(1)) && !selected.is_everything()));
}
