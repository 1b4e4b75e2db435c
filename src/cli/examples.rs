//! The commands that help texts show are commands.

use clap::{Command, CommandFactory as _, Parser as _};

use super::Cli;

/// The help of a command and of all below it.
fn helps(command: &Command, found: &mut Vec<String>) {
    found.extend(command.get_after_help().map(ToString::to_string));
    command.get_subcommands().for_each(|below| helps(below, found));
}

/// The words of a line as a shell has them, up to a pipe, a comment behind two spaces, or the end.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut spaces) = (Vec::new(), String::new(), None, 0);
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '\'' | '"') => quote = Some(letter),
            (None, ' ') => {
                spaces += 1;
                if spaces == 2 {
                    break;
                }
                words.push(std::mem::take(&mut word));
                continue;
            }
            (None, '|' | '>') if word.is_empty() => break,
            (_, letter) => word.push(letter),
        }
        spaces = 0;
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_example_of_the_help_is_understood() {
    let mut found = Vec::new();
    helps(&Cli::command(), &mut found);
    let lines = found.iter().flat_map(|help| help.lines());
    let examples = lines.filter_map(|line| line.find("mhub ").map(|at| line.split_at(at)));
    // What something is piped into is an example, too; a sentence may name a command in passing.
    let whole = examples.filter(|(before, _)| {
        before.trim().is_empty() || before.ends_with("| ") || before.ends_with(": ")
    });
    let mut count = 0;
    for (_, example) in whole {
        let words = words(example);
        // That it asks for help is no error.
        if let Err(error) = Cli::try_parse_from(&words)
            && error.use_stderr()
        {
            panic!("{words:?}: {error}");
        }
        count += 1;
    }
    assert!(count > 100, "only {count} examples were found");
}

#[test]
fn lines_are_cut_into_words_as_by_a_shell() {
    assert_eq!(words("mhub a --b 'c d' e"), ["mhub", "a", "--b", "c d", "e"]);
    assert_eq!(words("mhub a '{\"b\": 1}'     what it does"), ["mhub", "a", "{\"b\": 1}"]);
    assert_eq!(words("mhub a --dot | dot > b"), ["mhub", "a", "--dot"]);
}
