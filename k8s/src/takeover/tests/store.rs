//! A stand-in API server that keeps the Services of one namespace as the real one does: versions, merge patches, preconditions.

use super::merge;
use crate::testing::{Answer, Asked, FakeApi, failure, list};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

#[derive(Debug, Default)]
struct Kept {
    services: BTreeMap<String, Value>,
    version: u64,
    requests: usize,
}

/// The Services, seen from the test.
#[derive(Debug, Clone, Default)]
pub(super) struct Store(Arc<Mutex<Kept>>);

/// What is done to a request before it is answered: `Some` is the answer.
type Meddle = dyn Fn(usize, &Asked, &Store) -> Option<Answer> + Send + Sync;

impl Store {
    pub(super) fn with(services: &[Value]) -> Self {
        let store = Self::default();
        for service in services {
            store.put(service.clone());
        }
        store
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        self.0.lock().unwrap().services.get(name).cloned()
    }

    /// The Service without its version, for comparing.
    pub(super) fn content(&self, name: &str) -> Option<Value> {
        let mut service = self.get(name)?;
        service["metadata"]["resourceVersion"] = Value::Null;
        Some(service)
    }

    /// Somebody else's change.
    pub(super) fn edit(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut service = self.get(name).unwrap();
        edit(&mut service);
        self.put(service);
    }

    fn put(&self, mut service: Value) -> Value {
        let mut kept = self.0.lock().unwrap();
        kept.version += 1;
        service["metadata"]["resourceVersion"] = kept.version.to_string().into();
        if service["metadata"]["uid"].is_null() {
            service["metadata"]["uid"] = format!("u{}", kept.version).into();
        }
        let name = service["metadata"]["name"].as_str().unwrap().to_owned();
        kept.services.insert(name, service.clone());
        service
    }

    pub(super) async fn serve(&self) -> FakeApi {
        self.serve_with(|_, _, _| None).await
    }

    /// With somebody in between, who knows the number of the request, from 1.
    pub(super) async fn serve_with(
        &self,
        meddle: impl Fn(usize, &Asked, &Self) -> Option<Answer> + Send + Sync + 'static,
    ) -> FakeApi {
        let (store, meddle): (Self, Box<Meddle>) = (self.clone(), Box::new(meddle));
        FakeApi::start(move |asked| {
            let number = {
                let mut kept = store.0.lock().unwrap();
                kept.requests += 1;
                kept.requests
            };
            meddle(number, asked, &store).unwrap_or_else(|| store.answer(asked))
        })
        .await
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let Some((_, rest)) = asked.path.split_once("/namespaces/demo/") else {
            return failure(404, "not found");
        };
        match (asked.method.as_str(), rest.split_once('/')) {
            ("GET", Some(("services", name))) => self.get(name).map_or_else(missing, ok),
            ("PATCH", Some(("services", name))) => self.patch(name, asked),
            ("DELETE", Some(("services", name))) => self.delete(name, asked),
            ("POST", None) if rest == "services" => self.create(asked),
            ("GET", None) if rest == "services" => self.list(asked),
            ("GET", None) if rest == "pods" => list(
                json!([{ "metadata": { "name": "web-1", "labels": { "app": "web" } },
                "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }]),
            ),
            ("GET", None) if rest == "endpointslices" => slices(asked),
            _ => failure(404, "not found"),
        }
    }

    fn list(&self, asked: &Asked) -> Answer {
        if asked.is_watch() {
            return Answer::Events(Vec::new());
        }
        let services: Vec<Value> = self.0.lock().unwrap().services.values().cloned().collect();
        list(services.into())
    }

    fn create(&self, asked: &Asked) -> Answer {
        let name = asked.body["metadata"]["name"].as_str().unwrap();
        match self.get(name) {
            Some(_) => failure(409, "already exists"),
            None => ok(self.put(asked.body.clone())),
        }
    }

    fn patch(&self, name: &str, asked: &Asked) -> Answer {
        assert!(asked.query.contains("fieldManager=kvpn"), "{}", asked.query);
        if asked.query.contains("force=true") {
            return ok(self.put(asked.body.clone()));
        }
        let Some(mut service) = self.get(name) else {
            return missing();
        };
        if asked.body["metadata"]["resourceVersion"] != service["metadata"]["resourceVersion"] {
            return failure(409, "the object has been modified");
        }
        merge(&mut service, &asked.body);
        ok(self.put(service))
    }

    fn delete(&self, name: &str, asked: &Asked) -> Answer {
        let Some(service) = self.get(name) else {
            return missing();
        };
        let wanted = &asked.body["preconditions"];
        let metadata = &service["metadata"];
        if wanted["uid"] != metadata["uid"]
            || wanted["resourceVersion"] != metadata["resourceVersion"]
        {
            return failure(409, "the object has been modified");
        }
        self.0.lock().unwrap().services.remove(name);
        ok(service)
    }
}

fn ok(service: Value) -> Answer {
    Answer::Json(200, service)
}

fn missing() -> Answer {
    failure(404, "not found")
}

fn slices(asked: &Asked) -> Answer {
    if asked.is_watch() {
        return Answer::Events(Vec::new());
    }
    assert!(
        asked.query.contains("service-name%3Dweb-kvpn-origin"),
        "{}",
        asked.query
    );
    list(
        json!([{ "metadata": { "name": "s" }, "addressType": "IPv4", "endpoints": [{ "addresses": ["10.244.0.8"], "conditions": { "ready": true } }] }]),
    )
}
