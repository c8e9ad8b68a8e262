// SPDX-License-Identifier: GPL-2.0

//! Rules of the house that can be read off the sources.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files of the kernel module, by their paths from the root.
fn module_files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for folder in ["", "abstractions"] {
        for entry in fs::read_dir(root().join(folder)).expect("the folder is there") {
            let path = entry.expect("readable").path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.ends_with(".rs") && name != "bindings_generated.rs" {
                let text = fs::read_to_string(&path).expect("readable");
                files.push((
                    format!("{folder}/{name}").trim_start_matches('/').into(),
                    text,
                ));
            }
        }
    }
    assert!(files.len() >= 15, "where are the sources?");
    files
}

/// The lines of a file without what is behind `//`.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .enumerate()
}

#[test]
fn unsafe_code_and_raw_bindings_are_in_abstractions_only() {
    for (name, text) in module_files() {
        if name.starts_with("abstractions/") {
            continue;
        }
        for (number, line) in code(&text) {
            let words: Vec<_> = line
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .collect();
            assert!(
                !words.contains(&"unsafe") && !words.contains(&"bindings"),
                "{name}:{}: {line}",
                number + 1
            );
        }
    }
}

/// The longest line that `checkpatch.pl --strict` has nothing against, in columns.
const LONGEST: usize = 100;

#[test]
fn lines_are_not_too_long_for_the_kernel() {
    for (name, text) in module_files() {
        for (line, number) in text.lines().zip(1..) {
            let columns = line.chars().count();
            assert!(columns <= LONGEST, "{name}:{number}: {columns} columns");
        }
    }
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut blocks = 0;
    for (name, text) in module_files() {
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in code(&text) {
            let unsafe_block = line.contains("unsafe {") || line.contains("unsafe impl");
            if !unsafe_block {
                continue;
            }
            blocks += 1;
            // The comment stands before the statement, which may have begun some lines earlier.
            let start = number.saturating_sub(8);
            assert!(
                lines[start..=number]
                    .iter()
                    .any(|line| line.contains("// SAFETY:")),
                "{name}:{}: {line}",
                number + 1
            );
        }
    }
    assert!(blocks > 20, "there is unsafe code in the abstractions");
}

#[test]
fn every_abstraction_says_why_it_is_here_and_what_would_retire_it() {
    for (name, text) in module_files() {
        if !name.starts_with("abstractions/") || name.ends_with("mod.rs") {
            continue;
        }
        let head: Vec<_> = text
            .lines()
            .take_while(|line| line.starts_with("//") || line.is_empty())
            .collect();
        let head = head.join(" ").replace(" //!", "");
        for phrase in ["Why it is here:", "What would retire it:", "C header"] {
            assert!(head.contains(phrase), "{name} does not say `{phrase}`");
        }
        assert!(!text.contains("AlphaRNG"), "{name} knows of the device");
    }
}

#[test]
fn nothing_in_the_module_can_panic_by_its_own_words() {
    for (name, text) in module_files() {
        for (number, line) in code(&text) {
            for word in [
                ".unwrap()",
                ".expect(",
                "unreachable!",
                "todo!",
                "unimplemented!",
            ] {
                assert!(!line.contains(word), "{name}:{}: {line}", number + 1);
            }
            // In a constant it fails the build, not the kernel.
            let in_const = [
                "alrandom.rs",
                "alrandom_usb.rs",
                "abstractions/moduleparam.rs",
            ]
            .contains(&name.as_str());
            assert!(
                in_const || !line.contains("panic!"),
                "{name}:{}: {line}",
                number + 1
            );
        }
    }
}

#[test]
fn every_file_names_its_licence() {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output();
    let files: Vec<String> = match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            String::from_utf8(output.stdout)
                .expect("names are UTF-8")
                .split_terminator('\0')
                .map(str::to_owned)
                .collect()
        }
        // Not a checkout: the sources at least.
        _ => module_files().into_iter().map(|(name, _)| name).collect(),
    };
    for name in files {
        // A Debian package has its own file for that.
        let exempt = ["LICENSE", "Cargo.lock"]
            .iter()
            .any(|end| name.ends_with(end))
            || name.contains("/debian/");
        let Ok(text) = fs::read_to_string(root().join(&name)) else {
            continue;
        };
        let head: String = text.lines().take(6).collect();
        assert!(
            exempt || head.contains("SPDX-License-Identifier: "),
            "{name} has no SPDX-License-Identifier in its first lines"
        );
    }
}
