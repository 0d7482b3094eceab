//! Who may change something through the control socket.

/// The group whose members may change what the daemon does.
pub const GROUP: &str = "peerix";

/// The other side of a connection, as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Effective user id.
    pub user_id: u32,
    /// Effective group id.
    pub group_id: u32,
}

/// The texts of `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

impl Accounts {
    /// Reads both files; one that can't be read counts as empty.
    pub fn read() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Accounts {
            passwd: read("/etc/passwd"),
            group: read("/etc/group"),
        }
    }

    /// Whether `caller` is in the group [`GROUP`], by its own group or as one of its members.
    fn is_in_group(&self, caller: Caller) -> bool {
        let Some(group) = self.group.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let id: u32 = fields.nth(1)?.parse().ok()?;
            (name == GROUP).then(|| (id, fields.next().unwrap_or_default()))
        }) else {
            return false;
        };
        let (group_id, members) = group;
        let mut names = self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let id: u32 = fields.nth(1)?.parse().ok()?;
            (id == caller.user_id).then_some(name)
        });
        caller.group_id == group_id
            || names.any(|name| members.split(',').any(|member| member.trim() == name))
    }
}

/// Whether `caller` may change something: root, the daemon's own user, members of the group
/// [`GROUP`]. Everyone may read.
pub fn may_change(
    caller: Caller,
    daemon_user_id: u32,
    accounts: impl FnOnce() -> Accounts,
) -> bool {
    caller.user_id == 0 || caller.user_id == daemon_user_id || accounts().is_in_group(caller)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\nanna:x:1001:100::/home/anna:/bin/sh\nben:x:1002:100::/home/ben:/bin/sh\nbroken\n".to_owned(),
            group: "users:x:100:ben\npeerix-other:x:998:ben\npeerix:x:999:carl,anna\n".to_owned(),
        }
    }

    fn may(user_id: u32, group_id: u32) -> bool {
        may_change(Caller { user_id, group_id }, 500, accounts)
    }

    #[test]
    fn root_the_daemons_user_and_the_group_may_change_things() {
        assert!(may(0, 0));
        assert!(may(500, 500));
        assert!(may(1001, 100), "a member by name");
        assert!(may(1002, 999), "by its own group");
    }

    #[test]
    fn nobody_else_may() {
        assert!(!may(1002, 100));
        assert!(!may(1003, 998));
        assert!(!may_change(
            Caller {
                user_id: 1001,
                group_id: 999
            },
            500,
            Accounts::default
        ));
    }
}
