//! The command line is a contract: what users and scripts write keeps its meaning.

use clap::{CommandFactory as _, Parser as _};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_types_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_contract_parses() {
    for line in [
        "kvpn connect",
        "kvpn connect --gateway-namespace kvpn --image x/y:1 --no-install --datapath kernel --carrier api",
        "kvpn connect --upgrade --cidr 10.0.0.0/8 --cidr fd00::/64 --exclude 10.1.0.0/16 --dns-namespace a --dns-namespace b",
        "kvpn connect --foreground --name shop -n shop --context dev --kubeconfig /x",
        "kvpn disconnect",
        "kvpn disconnect shop",
        "kvpn disconnect --all",
        "kvpn status -o json",
        "kvpn expose 8080 as web",
        "kvpn expose 8080:80 9090:9090/udp as web -n shop --takeover --force --carrier api --no-install",
        "kvpn expose 8080:http as web --match x-dev:ana --match x-b=~^a --match-path /api --match-method GET",
        "kvpn expose --weight 10% 8080 as web -o json",
        "kvpn expose 8080 as web --mirror --detach",
        "kvpn expose 8080 as web --no-fallback --proxy-protocol -- npm run dev --port 8080",
        "kvpn unexpose web",
        "kvpn unexpose --all",
        "kvpn restore",
        "kvpn restore web --force",
        "kvpn restore --all",
        "kvpn list -o json",
        "kvpn status --watch",
        "kvpn gateway install --image i --image-pull-policy never --image-pull-secret s --datapath userspace --replicas 2 --udp none",
        "kvpn gateway uninstall -n kvpn",
        "kvpn gateway manifest --udp loadbalancer",
        "kvpn gateway rbac --user ana --group dev --service-account ci:bot --for install",
        "kvpn gateway status -o json",
        "kvpn doctor -o json",
        "kvpn env web",
        "kvpn env sts/db -o json --container side --ignore-denied",
        "kvpn env pod/web-1 -o export",
        "kvpn run -- curl http://web",
        "kvpn -n shop run --like deployment/web --container app --ignore-denied --cidr 203.0.113.0/24 -- npm start -- -x",
        "kvpn service install --user ana --user bo",
        "kvpn service uninstall",
        "kvpn service status -o json",
        "kvpn completion bash",
        "kvpn man",
        "kvpn -v -n shop status",
        "kvpn status -vv --log-format json",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    for line in [
        "kvpn connect --upgrade --no-install",
        "kvpn connect --carrier tcp",
        "kvpn connect --cidr 0.0.0.0/0",
        "kvpn connect --name ../x",
        "kvpn disconnect shop --all",
        "kvpn expose",
        "kvpn expose 8080 as web --weight 0%",
        "kvpn expose 8080 as web --match x",
        "kvpn expose 8080 as web --match-path api",
        "kvpn expose 8080 as web --match-method G/T",
        "kvpn expose 8080 as web --detach -- sh",
        "kvpn expose 8080 as web --detach -o json",
        "kvpn unexpose",
        "kvpn unexpose web --all",
        "kvpn restore web --all",
        "kvpn -q -v status",
        "kvpn gateway install --replicas 0",
        "kvpn env",
        "kvpn",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

// Elsewhere these are no commands at all.
#[cfg(unix)]
#[test]
fn what_contradicts_itself_in_a_run_is_refused() {
    for line in ["kvpn run", "kvpn run curl", "kvpn helper --own --serve"] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn internal_commands_are_not_advertised() {
    let help = Cli::command().render_long_help().to_string();
    assert!(
        !help.contains("  helper") && !help.contains("  agent"),
        "{help}"
    );
}

#[test]
fn every_command_and_option_has_a_manual() {
    fn check(command: &clap::Command) {
        for sub in command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help")
        {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            check(sub);
        }
        for option in command.get_arguments() {
            assert!(
                option.get_help().is_some(),
                "{} {}",
                command.get_name(),
                option.get_id()
            );
        }
    }
    check(&Cli::command());
}
