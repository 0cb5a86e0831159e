// Pages opened from the disk may not start a Worker, so the search would be missing there.
// This stands in for Worker: the script runs in a hidden frame, and messages are passed by hand.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      const inside = this.frame.contentWindow
      inside.postMessage = (data) => this.deliver(this, data)
      inside.importScripts = (...urls) => Promise.all(urls.map((u) => this.load(u)))
      this.ready = this.load(url)
    }

    load(url) {
      const script = this.frame.contentDocument.createElement("script")
      script.src = url
      const loaded = new Promise((resolve) => (script.onload = resolve))
      this.frame.contentDocument.body.appendChild(script)
      return loaded
    }

    deliver(target, data) {
      target.dispatchEvent(new MessageEvent("message", { data }))
    }

    postMessage(data) {
      this.ready.then(() => this.deliver(this.frame.contentWindow, data))
    }
  }
}
