variable "project" {
  description = "The Google Cloud project's id."
  type        = string
}

variable "bucket" {
  description = "The bucket's name, without gs://."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "A bucket's name: 3 to 63 lower-case letters, digits, dots, hyphens and underscores, without gs://."
  }
}

variable "name" {
  description = "What the machine, the network and the accounts are called."
  type        = string
  default     = "kaggleops"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,20}[a-z0-9]$", var.name))
    error_message = "6 to 22 lower-case letters, digits and hyphens, with a letter first."
  }
}

variable "region" {
  description = "Where everything lies. The free tier is in us-central1, us-east1 and us-west1 only."
  type        = string
  default     = "us-central1"
}

variable "zone" {
  description = "Where the machine stands. Default: the region's zone b, which every region has."
  type        = string
  default     = null
}

variable "create_bucket" {
  description = "Whether to make the bucket. With false it is one that exists, with uniform bucket-level access: only rights are given in it, and those have a condition."
  type        = bool
  default     = true
}

variable "delete_runs" {
  description = "Whether destroying also deletes a bucket that holds something. Apply it first, then destroy."
  type        = bool
  default     = false
}

variable "server" {
  description = "Whether there is a machine that serves. Without it `kaggleops ui` serves the bucket where you are."
  type        = bool
  default     = true
}

variable "spot" {
  description = "Whether the machine may be taken away at any time. Only cheaper outside the free tier, which holds no such machine."
  type        = bool
  default     = false
}

variable "users" {
  description = "Who may come to the machine through IAP, beside the project's owners: [\"user:ada@example.com\"]."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for each in var.users : can(regex("^(user|group|serviceAccount|domain):.+$", each))])
    error_message = "Each is user:…, group:…, serviceAccount:… or domain:…; the public is none of them."
  }
}

variable "nat" {
  description = "Whether the machine can call out to the internet, through Cloud NAT (some $5 a month): Debian's security updates come over that."
  type        = bool
  default     = false
}

variable "open_to" {
  description = "IPv4 address ranges that reach the server directly: [\"203.0.113.7/32\"]. Gives the machine an external address (some $4 a month) and asks for a password."
  type        = list(string)
  default     = []

  validation {
    condition = alltrue([
      for each in var.open_to : can(cidrnetmask(each)) && tonumber(try(split("/", each)[1], 0)) >= 8
    ])
    error_message = "Each is an IPv4 range like 203.0.113.7/32, and none holds more than a 256th of the internet."
  }
}

variable "network" {
  description = "A network of this project that the machine is to stand in, as projects/…/global/networks/…. Default: one of its own."
  type        = string
  default     = ""

  validation {
    condition     = (var.network == "") == (var.subnetwork == "")
    error_message = "Name both network and subnetwork, or neither."
  }
}

variable "subnetwork" {
  description = "The part of that network, in the region, as projects/…/regions/…/subnetworks/…, with Private Google Access: the machine reaches the bucket through it."
  type        = string
  default     = ""
}

variable "index_secret" {
  description = "The name of a secret in Secret Manager that holds the index's address, postgresql://user:password@host/name. Default: SQLite on the machine's disk."
  type        = string
  default     = ""

  validation {
    condition     = var.index_secret == "" || !var.server || var.network != "" || var.nat || length(var.open_to) > 0
    error_message = "From a network of its own the machine reaches no database: name the database's network and subnetwork, or let the machine out with nat."
  }
}

variable "keep_code_days" {
  description = "For how many days the bucket keeps the bundle of a commit that runners cannot clone."
  type        = number
  default     = 180
}
