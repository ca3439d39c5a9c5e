//! Every form of name that DESIGN.md lists, asked through every kind of resolver, printed as a table.

#[path = "names/question.rs"]
mod question;
#[path = "names/resolver.rs"]
mod resolver;

use std::fmt::Write as _;
use std::time::Duration;

use kvpn::gateway::Datapath;
use kvpn::laptop::{Laptop, Resolver};
use kvpn::table::Table;

use question::{Question, questions};
use resolver::{Column, Transport};

/// Cluster addresses change: nobody may keep them longer (DESIGN.md, Names).
const LONGEST_TTL: u32 = 5;

/// Which resolvers a kind of laptop has.
fn columns(resolver: Resolver) -> Vec<Column> {
    match resolver {
        Resolver::Resolved => vec![
            Column::Dig(Transport::Udp),
            Column::Dig(Transport::Tcp),
            Column::Glibc(Transport::Udp),
        ],
        Resolver::Plain => vec![
            Column::Dig(Transport::Udp),
            Column::Dig(Transport::Tcp),
            Column::Glibc(Transport::Udp),
            Column::Glibc(Transport::Tcp),
            Column::Musl,
        ],
    }
}

#[test]
fn every_form_of_name_in_every_resolver() {
    let questions = questions();
    let mut headings = vec!["name".to_owned(), "type".to_owned(), "expected".to_owned()];
    let mut verdicts: Vec<Vec<String>> = vec![Vec::new(); questions.len()];
    for resolver in [Resolver::Resolved, Resolver::Plain] {
        let laptop = Laptop::start(&format!("names-{resolver:?}").to_lowercase(), resolver);
        let before = laptop.traces();
        laptop.connect(Datapath::Userspace, &[]);
        for column in columns(resolver) {
            headings.push(column.heading(resolver));
            for (question, verdicts) in column
                .ask(resolver, &laptop, &questions)
                .into_iter()
                .zip(&mut verdicts)
            {
                verdicts.push(question);
            }
        }
        if resolver == Resolver::Plain {
            short_lived(&laptop, &questions);
        }
        laptop.kvpn(&["disconnect"]).ok();
        laptop.is_as_before(&before, Duration::from_secs(1), "disconnect");
    }
    show(&headings, &questions, verdicts);
}

fn show(headings: &[String], questions: &[Question], verdicts: Vec<Vec<String>>) {
    let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    let mut wrong = String::new();
    for (question, verdicts) in questions.iter().zip(verdicts) {
        for (verdict, heading) in verdicts
            .iter()
            .zip(&headings[3..])
            .filter(|(verdict, _)| verdict.starts_with("WRONG"))
        {
            writeln!(
                wrong,
                "{} {:?} by {heading}: {verdict}",
                question.name, question.kind
            )
            .unwrap();
        }
        let cells = verdicts.into_iter().map(|verdict| {
            if verdict.starts_with("WRONG") {
                "WRONG".to_owned()
            } else {
                verdict
            }
        });
        let head = [
            question.name.clone(),
            format!("{:?}", question.kind),
            question.expected.to_string(),
        ];
        table.row(head.into_iter().chain(cells).collect());
    }
    println!("{table}");
    assert!(wrong.is_empty(), "\n{table}\n{wrong}");
}

fn short_lived(laptop: &Laptop, questions: &[Question]) {
    for question in questions
        .iter()
        .filter(|question| question.is_of_the_cluster())
    {
        let answer = laptop
            .run(&[
                "dig",
                "+search",
                "+noall",
                "+answer",
                &question.name,
                &question.kind.to_string(),
            ])
            .ok();
        for line in answer.stdout.lines().filter(|line| !line.starts_with(';')) {
            let ttl: u32 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            assert!(ttl <= LONGEST_TTL, "{line}");
        }
    }
}
