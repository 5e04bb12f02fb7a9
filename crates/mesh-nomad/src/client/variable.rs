//! Routes of variables: compare-and-set, and locks.

use super::{Client, Error, Reason, Request};
use crate::model::variable::{Lock, Variable};

/// What became of a compare-and-set.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "it succeeds or it does not")]
pub enum Written {
    /// It was written; the variable as it is now.
    Done(Variable),
    /// Somebody else wrote it; the variable as it is, with its items if the token may read them.
    Conflict(Variable),
}

/// What became of a try to take a lock.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "it is taken or it is not")]
#[expect(clippy::large_enum_variant, reason = "one is made per request")]
pub enum Acquired {
    /// It is taken; the variable with the lock and its ID.
    Held(Variable),
    /// Somebody else has it, or had it until a moment ago.
    Busy,
}

impl Client {
    /// One variable; none if there is none.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn variable(&self, namespace: &str, path: &str) -> Result<Option<Variable>, Error> {
        match self.value(Self::variable_request(namespace, path)).await {
            Ok(variable) => Ok(Some(variable)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The request behind [`Self::variable`], to watch.
    pub fn variable_request(namespace: &str, path: &str) -> Request {
        Request::get(&["v1", "var"])
            .below(path)
            .namespace(namespace)
    }

    /// The variables whose path begins with `prefix`, without their items.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub async fn variables(&self, namespace: &str, prefix: &str) -> Result<Vec<Variable>, Error> {
        let request = Request::get(&["v1", "vars"]).namespace(namespace);
        self.value(request.query("prefix", prefix)).await
    }

    /// Writes a variable. With `expected`, only if that is the index of the stored one; 0 means
    /// that there must be none.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]. A conflict is no error.
    pub async fn write_variable(
        &self,
        namespace: &str,
        variable: &Variable,
        expected: Option<u64>,
    ) -> Result<Written, Error> {
        let request = to(namespace, variable).query_if("cas", expected);
        match self.value(request.json(variable)?).await {
            Ok(variable) => Ok(Written::Done(variable)),
            Err(Error::Api(error)) if error.reason() == Reason::Conflict => {
                match serde_json::from_str(&error.body) {
                    Ok(found) => Ok(Written::Conflict(found)),
                    // A text: the variable is locked, and the lock was not named.
                    Err(_text) => Err(Error::Api(error)),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a variable; with `expected`, only if that is its index.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; status 409 if the index is another.
    pub async fn remove_variable(
        &self,
        namespace: &str,
        path: &str,
        expected: Option<u64>,
    ) -> Result<(), Error> {
        let request = Request::delete(&["v1", "var"])
            .below(path)
            .namespace(namespace);
        self.send(&request.query_if("cas", expected)).await?;
        Ok(())
    }

    /// Takes the lock on a variable, whose items are written too. It lives as long as `lock` says
    /// unless it is renewed.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]. A lock that is held is no error.
    pub async fn acquire_lock(
        &self,
        namespace: &str,
        variable: &Variable,
        lock: Lock,
    ) -> Result<Acquired, Error> {
        let locked = Variable {
            lock: lock.into(),
            ..variable.clone()
        };
        let request = to(namespace, variable).query("lock-acquire", "");
        match self.value(request.json(&locked)?).await {
            Ok(variable) => Ok(Acquired::Held(variable)),
            Err(error) if error.reason() == Some(Reason::Conflict) => Ok(Acquired::Busy),
            Err(error) => Err(error),
        }
    }

    /// Makes a lock live on. `held` is what [`Self::acquire_lock`] gave.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; status 409 when it is held no more.
    pub async fn renew_lock(&self, namespace: &str, held: &Variable) -> Result<Variable, Error> {
        let request = to(namespace, held).query("lock-renew", "");
        self.value(request.json(&without_items(held))?).await
    }

    /// Gives a lock up.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`]; status 409 when it is held no more.
    pub async fn release_lock(&self, namespace: &str, held: &Variable) -> Result<Variable, Error> {
        let request = to(namespace, held).query("lock-release", "");
        self.value(request.json(&without_items(held))?).await
    }
}

/// What names a lock: Nomad refuses items beside it.
fn without_items(held: &Variable) -> Variable {
    Variable {
        path: held.path.clone(),
        lock: held.lock.clone(),
        ..Variable::default()
    }
}

fn to(namespace: &str, variable: &Variable) -> Request {
    let request = Request::put(&["v1", "var"]).below(variable.path.text());
    request.namespace(namespace)
}
