# The shop, as people write it: comments, short blocks, odd spacing.
variable "image" {
  default = "shop/web:7"
}

job "shop" {
  datacenters = ["*"]   # everywhere

  meta { team = "shop" }

  group "front" {
    count = 2

    /* One network for all. */
    network {
      mode = "bridge" // ours
      port "http" { to = 8080 }
      port "admin" {}
    }

    service {
      name     = "web"
      provider = "nomad"
      port     = "http"   # the site
      meta { version = "v2" }

      check {
        type     = "http"
        path     = "/health" # cheap
        interval = "10s"
        timeout  = "1m30s"
        header {
          X-Probe = ["yes"]
        }
      }
      check {
        name = "script"
        type = "script"
        command = "/bin/true"
        interval = "10s"
        timeout = "2s"
      }
    }

    task "app" {
      driver = "docker"
      user   = "1000:1000"
      config {
        image = var.image
        args  = ["--host", "${NOMAD_IP_http}", "--name", "$${literal}"]
      }
      env {
        GREETING = <<-EOT
          hello ${NOMAD_ALLOC_ID}
        EOT
      }
    }
  }

  group "plain" {
    network { mode = "bridge" }
    task "worker" {
      driver = "exec"
      config { command = "/usr/local/bin/worker" }
      service {
        provider = "nomad"
        name = "worker"
        port = 7000
        address_mode = "alloc"
        check {
          type = "tcp"
          port = "7001"
          interval = "5s"
          timeout = "1s"
        }
      }
    }
    meta = { "owner" = "ops", stage = "live" }
  }

  group "left" {
    meta = {
      "mesh.inject" = "false"
    }
    task "alone" {
      driver = "raw_exec"
      config { command = "/bin/true" }
    }
  }
}
