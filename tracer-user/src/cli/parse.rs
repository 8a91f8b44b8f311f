// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running clap, and saying what it says in one line.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

use super::args::{Cli, Command, Invocation, NOT_OF_CHECK};
use super::error::CliError;
use crate::text::printable;

/// A command line that is well formed.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
pub enum Parsed {
    Run(Invocation),
    /// Help or version: for standard output, exit code 0.
    Print(StyledStr),
}

/// All flags and subcommands, for help, manual page and completions.
pub fn command() -> clap::Command {
    // What tracing alone needs is not in check's help, and refused in `parse`.
    Cli::command().mut_subcommand("check", |check| {
        NOT_OF_CHECK.iter().fold(check, |check, id| check.mut_arg(*id, |arg| arg.hide(true)))
    })
}

/// Parses the arguments, the program's name first.
pub fn parse<I>(arguments: I) -> Result<Parsed, CliError>
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let mut command = command();
    let matched = command.try_get_matches_from_mut(arguments).and_then(|mut matches| {
        let (stray, check) = (stray(&matches), check_line(&matches));
        Cli::from_arg_matches_mut(&mut matches)
            .map(|mut cli| {
                cli.trace.check = check;
                (cli, stray)
            })
            .map_err(|e| e.format(&mut command))
    });
    match matched {
        Ok((_, Some(flag))) => Err(CliError::NotOfCheck { flag }),
        Ok((cli, None)) => Ok(Parsed::Run(match cli.command {
            None => Invocation::Trace(cli.trace),
            Some(Command::Check { trace, .. }) => Invocation::Check(trace),
            Some(Command::Explain(explain)) => Invocation::Explain(explain),
            Some(Command::Wait) => Invocation::Wait,
        })),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Print(error.render().clone()))
        }
        Err(error) => Err(CliError::Syntax(one_line(&error.render().to_string()))),
    }
}

/// `egwtrace check` with the flags that were given of those that it takes.
fn check_line(matches: &ArgMatches) -> String {
    let mut line = String::from("egwtrace check");
    let cli = Cli::command();
    let given =
        |arg: &&clap::Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    for arg in cli.get_arguments().filter(given) {
        let (id, long) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
        // How something is printed is left to whoever types it again.
        if NOT_OF_CHECK.contains(&id) || ["output", "color", "verbose"].contains(&id) {
            continue;
        }
        if !arg.get_action().takes_values() {
            line += &format!(" --{long}");
        }
        for value in matches.get_raw(id).into_iter().flatten().filter(|_| arg.get_action().takes_values()) {
            let value = printable(value.as_encoded_bytes());
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%[]".contains(c);
            let quoted =
                if value.chars().all(plain) { value } else { format!("'{}'", value.replace('\'', "'\\''")) };
            line += &format!(" --{long} {quoted}");
        }
    }
    line
}

/// A flag of tracing given to `check`.
fn stray(matches: &ArgMatches) -> Option<String> {
    let check = matches.subcommand_matches("check")?;
    let given = |id: &&&str| check.value_source(id) == Some(ValueSource::CommandLine);
    NOT_OF_CHECK.iter().find(given).map(|id| format!("--{}", id.replace('_', "-")))
}

/// Clap's message without the usage that follows it, its lines joined, and nothing in it that a terminal
/// would obey: it repeats what was typed.
fn one_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let end = ["\n\nUsage:", "\n\nFor more information"].iter().filter_map(|mark| message.find(mark)).min();
    let lines: Vec<String> = message[..end.unwrap_or(message.len())]
        .lines()
        .map(|line| printable(line.trim()))
        .filter(|line| !line.is_empty())
        .collect();
    // What a colon announces follows it.
    format!("{} (see egwtrace --help)", lines.join("; ").replace(":; ", ": "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::TraceArgs;

    fn refused(arguments: &[&str]) -> String {
        match parse(std::iter::once(&"egwtrace").chain(arguments)) {
            Err(error) => error.to_string(),
            Ok(parsed) => panic!("{arguments:?}: {parsed:?}"),
        }
    }

    fn taken(arguments: &[&str]) -> TraceArgs {
        match parse(std::iter::once(&"egwtrace").chain(arguments)) {
            Ok(Parsed::Run(Invocation::Trace(args))) => args,
            other => panic!("{arguments:?}: {other:?}"),
        }
    }

    fn printed(flag: &str) -> String {
        match parse(["egwtrace", flag]) {
            Ok(Parsed::Print(text)) => text.to_string(),
            other => panic!("{flag}: {other:?}"),
        }
    }

    #[test]
    fn the_check_of_the_same_path() {
        let args =
            taken(&["--pod", "shop/web", "--dst=10.0.0.9:80", "--duration", "5s", "-v", "--count", "3"]);
        assert_eq!(args.check, "egwtrace check --pod shop/web --dst 10.0.0.9:80");
        let args = taken(&["--dst", "a b", "--follow", "--pod", "x", "--pod", "it's"]);
        assert_eq!(args.check, "egwtrace check --pod x --pod 'it'\\''s' --dst 'a b'");
    }

    #[test]
    fn flags_are_taken_as_typed() {
        let args = taken(&[
            "--pod",
            "default/visitor",
            "--dst=172.16.25.183:80",
            "-vv",
            "-ojson",
            "--node-netns",
            "a",
            "--node-netns",
            "b",
        ]);
        assert_eq!(args.pod, ["default/visitor"]);
        assert_eq!(
            (args.verbose, args.output, args.node_netns),
            (2, crate::cli::Format::Json, vec!["a".into(), "b".into()])
        );
    }

    #[test]
    fn a_refusal_is_one_line() {
        for (arguments, expected) in [
            (
                &["--pood", "x"][..],
                "unexpected argument '--pood' found; tip: a similar argument exists: '--pod'",
            ),
            (
                &["--color", "blue"],
                "invalid value 'blue' for '--color <WHEN>'; [possible values: auto, always, never]",
            ),
            (&["--dst"], "a value is required for '--dst <ADDR>' but none was supplied"),
            (
                &["--pod", "a", "--pid", "1"],
                "the argument '--pod <[NS/]NAME>' cannot be used with '--pid <PID>'",
            ),
            (&["--dst", "a", "--dst", "b"], "the argument '--dst <ADDR>' cannot be used multiple times"),
            (&["visitor"], "unrecognized subcommand 'visitor'"),
            (
                &["check", "--dst", "a", "--count", "1"],
                "check sends and waits for nothing: --count is a flag of tracing",
            ),
            (&["explain"], "the following required arguments were not provided: <FILE>"),
            (&["--x\u{202e}\ny"], "unexpected argument '--x\\u{202e}; y' found"),
        ] {
            let error = refused(arguments);
            assert!(error.starts_with(expected), "{error}");
            assert!(error.ends_with("--help)") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn help_has_groups_examples_and_exit_codes() {
        let long = printed("--help");
        for part in [
            "What to follow:",
            "Where to look:",
            "When to stop:",
            "Output:",
            "Examples:",
            "Exit codes:",
            "--debug-bpf",
        ] {
            assert!(long.contains(part), "{part}\n{long}");
        }
        assert!(printed("-h").lines().count() < 65, "the short help fits on a high screen");
        assert!(long.lines().all(|l| l.chars().count() <= 110), "{long}");
        assert!(printed("--version").starts_with("egwtrace 0."));
    }

    proptest! {
        #[test]
        fn arbitrary_arguments_never_panic(
            arguments in proptest::collection::vec(
                prop_oneof![
                    ".{0,20}",
                    "--(pod|netns|pid|src|dst|sport|dport|proto|count|duration|drops|color|time|tc|node-netns)(=.{0,10})?",
                    "-[a-zA-Z]{1,3}",
                ],
                0..6,
            ),
        ) {
            if let Err(error) = parse(std::iter::once("egwtrace".to_owned()).chain(arguments)) {
                let text = error.to_string();
                prop_assert!(!text.is_empty() && !text.chars().any(char::is_control), "{text:?}");
            }
        }

        #[test]
        fn arguments_that_are_not_text_never_panic(bytes in proptest::collection::vec(1u8.., 0..20)) {
            use std::os::unix::ffi::OsStringExt as _;
            let _ = parse([OsString::from("egwtrace"), OsString::from("--dst"), OsString::from_vec(bytes.clone())]);
            let _ = parse([OsString::from("egwtrace"), OsString::from_vec(bytes)]);
        }
    }
}
