use super::*;
use crate::client::tests::{Noise, cds, eds, sotw_response};
use std::{os::unix::fs::symlink, sync::atomic::AtomicU32};

/// A directory of the test's own, gone at its end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("waypost-xds-file-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn yaml(version: &str, name: &str) -> String {
    format!(
        "version_info: {version}\nresources:\n- '@type': {}\n  name: {name}\n  connect_timeout: 1s\n  no_such_field: 1\n",
        cds()
    )
}

/// `version: names`, or what is wrong.
fn seen(event: Option<Event>) -> String {
    match event {
        Some(Event::Update(update)) => {
            assert!(update.complete && update.type_url == cds());
            let names: Vec<_> = update.resources.iter().map(|resource| resource.name.as_str()).collect();
            format!("{}: {}", update.version, names.join(","))
        }
        Some(Event::Rejected { reason, .. }) => format!("rejected: {reason}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_file_is_read_at_once_and_when_another_takes_its_place() {
    let directory = Directory::new();
    let path = directory.file("cds.yaml");
    fs::write(&path, yaml("'1'", "a")).unwrap();
    let mut source = FileSource::new(&path, cds());
    assert_eq!(seen(source.poll()), "1: a");
    assert_eq!(source.poll(), None);
    fs::write(directory.file("next"), yaml("'2'", "b")).unwrap();
    fs::rename(directory.file("next"), &path).unwrap();
    assert_eq!(seen(source.poll()), "2: b");
    assert_eq!(source.poll(), None);
}

/// As the kubelet changes a mounted ConfigMap.
#[test]
fn a_swapped_directory_counts_as_a_change() {
    let directory = Directory::new();
    for (version, name) in [("v1", "a"), ("v2", "b")] {
        fs::create_dir(directory.file(version)).unwrap();
        fs::write(directory.file(version).join("cds.yaml"), yaml(version, name)).unwrap();
    }
    symlink("v1", directory.file("..data")).unwrap();
    symlink("..data/cds.yaml", directory.file("cds.yaml")).unwrap();
    let mut source = FileSource::new(directory.file("cds.yaml"), cds());
    assert_eq!(seen(source.poll()), "v1: a");
    symlink("v2", directory.file("..new")).unwrap();
    fs::rename(directory.file("..new"), directory.file("..data")).unwrap();
    assert_eq!(seen(source.poll()), "v2: b");
}

#[test]
fn what_cannot_be_read_is_reported_once_and_may_become_good() {
    let directory = Directory::new();
    let path = directory.file("cds.json");
    let mut source = FileSource::new(&path, cds());
    assert_eq!(seen(source.poll()), format!("rejected: {}: No such file or directory (os error 2)", path.display()));
    assert_eq!(source.poll(), None);
    fs::write(&path, "{").unwrap();
    assert!(seen(source.poll()).starts_with("rejected: "));
    assert_eq!(source.poll(), None);
    fs::write(&path, format!(r#"{{"versionInfo": "3", "resources": [{{"@type": "{}", "name": "c"}}]}}"#, cds()))
        .unwrap();
    assert_eq!(seen(source.poll()), "3: c");
    fs::write(&path, format!(r#"{{"resources": [{{"@type": "{}", "clusterName": "c"}}]}}"#, eds())).unwrap();
    assert!(seen(source.poll()).contains("does not match the message-wide type URL"));
}

#[test]
fn the_wire_form_is_read_and_noise_in_it_does_no_harm() {
    let directory = Directory::new();
    let wire = sotw_response(cds(), "", "7", "a b").encode_to_vec();
    fs::write(directory.file("cds.pb"), &wire).unwrap();
    assert_eq!(seen(FileSource::new(directory.file("cds.pb"), cds()).poll()), "7: a,b");
    let mut noise = Noise(7);
    let text = yaml("'1'", "a");
    for _ in 0..2000 {
        let bent = noise.bend(&wire);
        let _ = parse(Path::new("cds.pb"), &bent).map(|response| update(response, &cds()));
        let bent = noise.bend(text.as_bytes());
        let _ = parse(Path::new("cds.yaml"), &bent).map(|response| update(response, &cds()));
        let _ = parse(Path::new("cds.json"), &bent).map(|response| update(response, &cds()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_watched_file_is_looked_at_each_second_until_nobody_listens() {
    let directory = Directory::new();
    let path = directory.file("cds.yaml");
    fs::write(&path, yaml("'1'", "a")).unwrap();
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let task = tokio::spawn(watch(FileSource::new(&path, cds()), sender));
    assert_eq!(seen(events.recv().await), "1: a");
    fs::write(&path, yaml("'22'", "b")).unwrap();
    assert_eq!(seen(events.recv().await), "22: b");
    drop(events);
    task.await.unwrap();
}
