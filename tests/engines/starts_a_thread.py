"""What a runtime does that no rule of the kernel could confine any more."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
