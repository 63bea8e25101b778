# Runs the broker, in the shells of Alpine and Debian alike (docs/decisions/0021).
#
# Mosquitto restores sessions and queues after a restart, but not shared subscriptions: until the bridge subscribes again,
# it acknowledges messages and drops them. So before any device can connect, a session with ordinary subscriptions, which
# are restored, is put into the database, a new one at each start: what waits in an older one would be handed to whoever
# connects to it. A retained message tells the bridge the last one's number; it empties and ends them once it has subscribed.
set -u
configuration=/mosquitto/config
access=/mosquitto/access
counter=/mosquitto/data/guard
socket=/tmp/prepare.sock
broker=
stopped=

stop() {
    stopped=yes
    [ -z "$broker" ] || kill -TERM "$broker" 2>/dev/null
}
trap stop TERM INT

finish() {
    code=0
    wait "$broker" || code=$?
    # A signal interrupts the first wait; the broker then writes its database, and that must be waited for.
    while kill -0 "$broker" 2>/dev/null; do
        code=0
        wait "$broker" || code=$?
    done
}

prepare() {
    number=$(($(cat "$counter" 2>/dev/null || echo 0) + 1))
    set --
    while IFS= read -r filter; do
        set -- "$@" -t "$filter"
    done < "$configuration/filters"
    rm -f "$socket"
    /usr/sbin/mosquitto -c "$configuration/prepare.conf" &
    broker=$!
    until [ -S "$socket" ] && mosquitto_sub --unix "$socket" -V 5 -q 1 -c -x 604800 -E \
        -i "$GUARD-$number" -u "$GUARD_USER" -P none "$@" \
        && mosquitto_pub --unix "$socket" -V 5 -q 1 -r -t "$GUARD_TOPIC" -m "$number"; do
        kill -0 "$broker" 2>/dev/null || exit 1
        [ -z "$stopped" ] || break
        sleep 0.1
    done
    kill -TERM "$broker" 2>/dev/null
    finish
    [ -n "$stopped" ] || { echo "$number" > "$counter.new" && mv "$counter.new" "$counter"; }
}

fingerprint() {
    find -L "$access" /mosquitto/tls -type f ! -path '*/..*' -exec cksum {} + 2>/dev/null | sort
}

# Has the database written while that is cheap, so that few messages are lost if the broker is killed. And reads passwords,
# access list and certificates again when they have changed. A device that is new in a fleet may publish at once; one of a
# fleet that is new may not, before a pod with that fleet's subscriptions has taken over.
watch() {
    known=$(fingerprint)
    while sleep 2; do
        if [ -z "$(find /mosquitto/data/mosquitto.db -size +16384k 2>/dev/null)" ]; then
            kill -USR1 "$1" || exit
        fi
        now=$(fingerprint)
        if [ "$now" != "$known" ] && { [ ! -e "$access/filters" ] || cmp -s "$access/filters" /tmp/filters; }; then
            known=$now
            kill -HUP "$1" || exit
        fi
    done
}

cp "$configuration/filters" /tmp/filters
prepare
[ -z "$stopped" ] || exit 0
/usr/sbin/mosquitto -c "$configuration/mosquitto.conf" &
broker=$!
watch "$broker" &
finish
[ -n "$stopped" ] && exit 0
exit "$code"
