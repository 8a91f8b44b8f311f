// SPDX-License-Identifier: MIT OR Apache-2.0
//! Containers of Docker and podman: a server of our own answers Docker's interface, files of our own are podman's.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracer_user::node::Netns;
use tracer_user::target::docker::Docker;
use tracer_user::target::podman::Podman;
use tracer_user::target::{Backend, Wanted, find};

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("egwt-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// By the path that is asked for; `None`: no answer ever.
type Answer = fn(&str) -> Option<String>;

/// Answers each request.
fn serve(socket: &Path, answer: Answer) {
    let listener = UnixListener::bind(socket).unwrap();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut request = [0; 2048];
                let length = stream.read(&mut request).unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default();
                match answer(path) {
                    Some(answer) => drop(stream.write_all(answer.as_bytes())),
                    None => std::thread::sleep(Duration::from_secs(30)),
                }
            });
        }
    });
}

fn json(body: &str) -> String {
    // In chunks, as Docker answers what is long.
    let (a, b) = body.split_at(body.len() / 2);
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\n\r\n",
        a.len(),
        b.len()
    )
}

fn docker(path: &str) -> Option<String> {
    Some(match path {
        "/containers/json" => json(
            r#"[{"Id":"aaaa1111bbbb","Names":["/web"],"Created":1700000000,"New":{"x":1}},
                {"Id":"aaaa2222cccc","Names":["/other/link","/db"],"Created":1700000001},
                {"Id":"feed33334444","Names":["/we\u001b[2Jb"]}]"#,
        ),
        "/containers/aaaa1111bbbb/json" => {
            json(&format!(r#"{{"State":{{"Pid":{},"Running":true}},"HostConfig":{{}}}}"#, std::process::id()))
        }
        "/containers/aaaa2222cccc/json" => json(r#"{"State":{"Pid":0,"Running":false}}"#),
        _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}".into(),
    })
}

fn wanted(backend: &dyn Backend, name: &str) -> Result<String, String> {
    let found = find(&Wanted::Container(name.into()), &[backend]).map_err(|e| e.to_string())?;
    assert_eq!(found[0].netns, Some(Netns::current().unwrap()));
    Ok(found[0].name.clone())
}

#[test]
fn dockers_containers_by_name_and_id() {
    let dir = Dir::new("docker");
    let socket = dir.0.join("docker.sock");
    serve(&socket, docker);
    let docker = Docker::new(&socket).unwrap();
    assert_eq!(wanted(&docker, "web").unwrap(), "web");
    assert_eq!(wanted(&docker, "aaaa1").unwrap(), "web");
    assert_eq!(
        wanted(&docker, "aaaa").unwrap_err(),
        "--container \"aaaa\" fits 2 containers: web (aaaa1111bbbb), db (aaaa2222cccc); give the id of one of them"
    );
    assert_eq!(wanted(&docker, "db").unwrap_err(), "container \"db\" is not running: it has just ended");
    let error = wanted(&docker, "webx").unwrap_err();
    assert!(
        error.starts_with("no container \"webx\" here (did you mean \"web\"?); asked: Docker at "),
        "{error}"
    );
    let error = wanted(&docker, "feed").unwrap_err();
    assert!(error.contains("HTTP status 404") && !error.chars().any(char::is_control), "{error}");
}

#[test]
fn what_is_no_docker_is_named_within_the_limit() {
    let answers: [(Answer, &str); 4] = [
        (|_| None, "no answer within 2 s"),
        (|_| Some("SSH-2.0\r\n".into()), "does not speak HTTP as Docker does"),
        (|_| Some("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".into()), "HTTP status 500"),
        (|_| Some(json(r#"{"message": "surprise"}"#)), "does not speak HTTP as Docker does"),
    ];
    for (number, (answer, expected)) in answers.into_iter().enumerate() {
        let dir = Dir::new(&format!("no-docker-{number}"));
        let socket = dir.0.join("docker.sock");
        serve(&socket, answer);
        let start = Instant::now();
        let error = wanted(&Docker::new(&socket).unwrap(), "web").unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        assert!(error.contains(expected) && error.contains("docker.sock"), "{error}");
    }
    let error = wanted(&Docker::new(Path::new("/nowhere/docker.sock")).unwrap(), "web").unwrap_err();
    assert!(error.contains("No such file") && error.contains("is the service running?"), "{error}");
}

#[test]
fn podmans_containers_from_its_files() {
    let dir = Dir::new("podman");
    let (graph, run) = (dir.0.join("graph"), dir.0.join("run"));
    std::fs::create_dir_all(graph.join("overlay-containers")).unwrap();
    // Of a container is what is in its cgroup: here, a word of this test's own.
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let words = cgroups.split(|c: char| !c.is_ascii_alphanumeric());
    let Some(id) = words.max_by_key(|word| word.len()).filter(|word| !word.is_empty()) else {
        return println!("SKIP this process is in no cgroup");
    };
    let list = format!(
        r#"[{{"id":"{id}","names":["web"],"image":"x"}},{{"id":"dead00","names":["old"]}},{{"id":"../../etc","names":["evil"]}}]"#
    );
    std::fs::write(graph.join("overlay-containers/containers.json"), list).unwrap();
    for (id, pid) in [(id, std::process::id()), ("dead00", std::process::id())] {
        let data = run.join("overlay-containers").join(id).join("userdata");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("pidfile"), format!("{pid}\n")).unwrap();
    }
    let podman = Podman::new(graph, run);
    assert_eq!(wanted(&podman, "web").unwrap(), "web");
    // Its number was given to a process of somebody else.
    assert_eq!(wanted(&podman, "old").unwrap_err(), "container \"old\" is not running: it has ended");
    let error = wanted(&podman, "evil").unwrap_err();
    assert!(error.starts_with("no container \"evil\" here"), "{error}");
}
