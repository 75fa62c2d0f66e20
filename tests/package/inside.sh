# Runs as root in the copy that run.sh made, with the package in /tmp. Each step is a claim.
set -euo pipefail
export HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive

claims=0
claim() {
    claims=$((claims + 1))
    printf 'ok %s\n' "$1"
}
fail() {
    printf 'not ok: %s\n' "$1" >&2
    exit 1
}
as_daemon() {
    setpriv --reuid=rocketride-ingest --regid=rocketride-ingest --init-groups env -C / HOME=/nonexistent "$@"
}
# Every path, owner, mode, time and content beneath a folder.
snapshot() {
    find "$1" -printf '%p %U %G %m %T@ %y\n' | sort
    find "$1" -type f -print0 | sort -z | xargs -0r sha256sum
}
install_package() {
    dpkg --install /tmp/package.deb >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log >&2; fail 'dpkg --install'; }
}

enabled=/etc/systemd/system/multi-user.target.wants/rocketride-ingest.service
config=/etc/rocketride-ingest/config.toml
state=/var/lib/rocketride-ingest

install_package
id rocketride-ingest >/dev/null || fail 'no user'
[ -L "$enabled" ] || fail 'the unit is not enabled'
[ ! -e "$config" ] || fail 'a configuration was made'
grep -q 'not configured yet' /tmp/dpkg.log || fail "nothing said what to do next: $(cat /tmp/dpkg.log)"
claim 'the package installs, enables the unit and says how to configure it'

grep -qx "ConditionPathExists=$config" /usr/lib/systemd/system/rocketride-ingest.service || fail 'it would start unconfigured'
said=$(systemd-analyze verify rocketride-ingest.service 'rocketride-ingest@a.service' 2>&1) || fail "verify: $said"
[ -z "$said" ] || fail "systemd-analyze verify says: $said"
claim 'the units, as installed, find the program and are right'

[ "$(stat -c '%U:%G %a' $state)" = 'rocketride-ingest:rocketride-ingest 700' ] || fail "$(ls -ld $state)"
[ "$(stat -c '%U:%G %a' /etc/rocketride-ingest)" = 'root:root 755' ] || fail "$(ls -ld /etc/rocketride-ingest)"
[ -f /usr/share/doc/rocketride-ingest/examples/config.example.toml ] || fail 'no example'
for page in rocketride-ingest rocketride-ingest-run; do
    gzip -dc "/usr/share/man/man1/$page.1.gz" | grep -q '^\.SH SYNOPSIS' || fail "no manual page $page"
done
bash -c '. /usr/share/bash-completion/completions/rocketride-ingest && complete -p rocketride-ingest' >/dev/null
[ -f /usr/share/zsh/vendor-completions/_rocketride-ingest ] || fail 'no completions for zsh'
claim 'the folders, the example, manual pages and completions are there'

rocketride-ingest --version
install -d -o rocketride-ingest /srv/demo
as_daemon rocketride-ingest demo --dir /srv/demo --once >/tmp/demo.log 2>&1 || { cat /tmp/demo.log >&2; fail 'demo'; }
claim 'the installed program runs its demo as the installed user'

install -d -o rocketride-ingest -g rocketride-ingest /srv/in
echo 'not to be replaced' | tee /srv/in/one.txt >/srv/in/two.txt
install -m 0640 -g rocketride-ingest /dev/null /etc/rocketride-ingest/api-key
echo secret-4711 >/etc/rocketride-ingest/api-key
as_daemon rocketride-ingest sandbox --listen 127.0.0.1:0 --api-key secret-4711 >/tmp/sandbox.log 2>&1 &
for _ in $(seq 300); do grep -q listening /tmp/sandbox.log && break; sleep 0.1; done
uri=$(sed -n 's/^sandbox listening on //p' /tmp/sandbox.log)
cp /srv/demo/demo.pipe /etc/rocketride-ingest/p.pipe
cat >$config <<END
[server]
uri = "$uri"
api_key_file = "api-key"
[state]
min_free = "0"
[pipelines.p]
file = "p.pipe"
[[watch]]
path = "/srv/in"
pipeline = "p"
END
as_daemon rocketride-ingest run --once >/tmp/run.log 2>&1 || { cat /tmp/run.log >&2; fail 'run --once'; }
[ -s /srv/in/one.txt.result.json ] && [ -d $state/journal ] || fail "$(cat /tmp/run.log)"
claim 'a configured daemon delivers from its default state'

before=$(snapshot /srv; snapshot $state; snapshot /etc/rocketride-ingest)
install_package
dpkg --remove rocketride-ingest >/tmp/dpkg.log 2>&1 || fail "$(cat /tmp/dpkg.log)"
[ ! -e /usr/bin/rocketride-ingest ] || fail 'the program is still there'
[ "$before" = "$(snapshot /srv; snapshot $state; snapshot /etc/rocketride-ingest)" ] || fail 'an upgrade or a removal changed something'
claim 'an upgrade and a removal leave folders, state and configuration as they are'

install_package
[ -L "$enabled" ] || fail 'not enabled again'
echo '{}' >$state/spool/result
# An inbox of the operator beside the states of instances.
mkdir $state/inbox && echo mine >$state/inbox/journal.txt
before=$(snapshot /srv; snapshot $state)
dpkg --purge rocketride-ingest >/tmp/dpkg.log 2>&1 || fail "$(cat /tmp/dpkg.log)"
grep -q "kept $state: results in its spool" /tmp/dpkg.log || fail "$(cat /tmp/dpkg.log)"
[ "$before" = "$(snapshot /srv; snapshot $state)" ] || fail 'a purge took results that wait'
claim 'a purge keeps results that have not reached their folder, and says so'

install_package
rm $state/spool/result
# An instance of the template has its state beside it.
install -d -o rocketride-ingest $state/second
cp -a $state/journal* $state/spool $state/lock $state/instance $state/second/
mkdir -p $state/second/journal.format-1.backup/journal
# What `systemctl enable` of that instance makes, and the link of an operator's own unit.
wants=/etc/systemd/system/multi-user.target.wants
mkdir -p $wants
ln -s /usr/lib/systemd/system/rocketride-ingest@.service "$wants/rocketride-ingest@second.service"
ln -s /nowhere/other.service $wants/other.service
before=$(snapshot /srv; snapshot /etc/rocketride-ingest; snapshot $state/inbox)
dpkg --purge rocketride-ingest >/tmp/dpkg.log 2>&1 || fail "$(cat /tmp/dpkg.log)"
[ "$before" = "$(snapshot /srv; snapshot /etc/rocketride-ingest; snapshot $state/inbox)" ] || fail 'a purge changed folders of the operator'
grep -q 'kept /etc/rocketride-ingest' /tmp/dpkg.log || fail "$(cat /tmp/dpkg.log)"
[ "$(ls -A $state)" = inbox ] || fail "the purge left: $(find $state)"
[ ! -L "$wants/rocketride-ingest@second.service" ] || fail 'the purge left the link of an instance'
[ -L $wants/other.service ] || fail 'the purge took a link that is not ours'
rm $wants/other.service
rm -r $state/inbox /etc/rocketride-ingest
install_package
dpkg --purge rocketride-ingest >/tmp/dpkg.log 2>&1 || fail "$(cat /tmp/dpkg.log)"
left=$(find /etc /usr /var -xdev -name '*rocketride-ingest*' -newer /tmp/package.deb ! -path '/var/lib/dpkg/*')
[ -z "$left" ] || fail "the purge left: $left"
claim 'a purge takes state and units, and never what somebody put into a folder'

kill %1
printf '%d passed, 0 failed\n' "$claims"
