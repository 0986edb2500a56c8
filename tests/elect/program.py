"""The program under election: writes down when it lives, by CLOCK_BOOTTIME, every few milliseconds."""
import os, signal, sys, time

log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
options = sys.argv[2:]


def say(word):
    words = (word, os.getpid(), os.environ["CORONER_EPOCH"], os.environ["CORONER_INSTANCE"])
    os.write(log, ("%s %d %s %s %d\n" % (words + (time.clock_gettime_ns(time.CLOCK_BOOTTIME),))).encode())


if "deaf" in options:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
say("start")
if "escape" in options:
    # Twice forked, in a session of its own: nothing but its ancestry ties it to the program.
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
    else:
        os.wait()
        while True:
            time.sleep(3600)
while True:
    say("alive")
    time.sleep(0.004)
