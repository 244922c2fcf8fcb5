// The reference verifier of W3C credentials, driven by lines of JSON: used by test_credential_judge.py.
// It never sees the network: contexts and did:key documents are given or computed here.
import { createInterface } from "node:readline";
import { DataIntegrityProof } from "@digitalbazaar/data-integrity";
import * as multikey from "@digitalbazaar/ed25519-multikey";
import * as jcs from "@digitalbazaar/eddsa-jcs-2022-cryptosuite";
import * as vc from "@digitalbazaar/vc";
import * as statusLists from "@digitalbazaar/vc-bitstring-status-list";
import canonicalize from "canonicalize";
import jsonld from "jsonld";
import jsigs from "jsonld-signatures";

globalThis.fetch = () => {
  throw new Error("no network here");
};
const contexts = new Map();
const lists = new Map(); // status lists, by the name that credentials give them

// A did:key document says nothing that is not in the DID: did:key:K, with the one key did:key:K#K.
function didDocument(url) {
  const [did, fragment] = url.split("#");
  const key = did.slice("did:key:".length);
  const method = { id: `${did}#${key}`, type: "Multikey", controller: did, publicKeyMultibase: key };
  const multikeyContext = "https://w3id.org/security/multikey/v1";
  if (fragment === undefined) {
    const contexts = ["https://www.w3.org/ns/did/v1", multikeyContext];
    const may = { assertionMethod: [method.id], authentication: [method.id] };
    return { "@context": contexts, id: did, ...may, verificationMethod: [method] };
  }
  if (fragment !== key) throw new Error(`${did} has no key ${fragment}`);
  return { "@context": multikeyContext, ...method };
}

async function documentLoader(url) {
  const document = contexts.get(url) ?? lists.get(url) ?? (url.startsWith("did:key:") ? didDocument(url) : undefined);
  if (document !== undefined) return { contextUrl: null, documentUrl: url, document };
  return vc.defaultDocumentLoader(url); // the W3C's contexts, which come with the package
}

const verifySuite = () => new DataIntegrityProof({ cryptosuite: jcs.createVerifyCryptosuite() });

// Good if the list verifies and has the bit unset. `matching`: it has to be the issuer's own.
function statusAt(now, matching) {
  return async ({ credential }) => {
    const list = lists.get(credential.credentialStatus.statusListCredential);
    const ofList = await vc.verifyCredential({ credential: list, suite: verifySuite(), documentLoader, now });
    if (!ofList.verified) return ofList;
    const found = await statusLists.checkStatus({
      credential,
      suite: verifySuite(),
      documentLoader,
      verifyBitstringStatusListCredential: false, // done, as of `now`, which it does not take
      verifyMatchingIssuers: matching,
    });
    const good = found.verified && found.results.every(({ status }) => status === false);
    return { ...found, verified: good };
  };
}

function reason(result) {
  if (result.verified) return null;
  const inner = [result, ...(result.credentialResults ?? [])].map((one) => one.error).find((one) => one);
  return String(inner?.errors?.[0]?.message ?? inner ?? result.statusResult?.error ?? "not verified");
}

async function verify(credential, now, matching) {
  const checkStatus = statusAt(now, matching);
  return reason(await vc.verifyCredential({ credential, suite: verifySuite(), documentLoader, checkStatus, now }));
}

async function verifyPresentation(presentation, { now, challenge, domain }) {
  const controller = didDocument(presentation.holder); // whom it names has to have signed it
  const presentationPurpose = new jsigs.purposes.AuthenticationProofPurpose({ controller, domain, challenge });
  return reason(
    await vc.verify({
      presentation,
      presentationPurpose,
      suite: verifySuite(),
      documentLoader,
      checkStatus: statusAt(now, true),
      now,
    }),
  );
}

async function signer(did, publicKeyMultibase, secretKeyMultibase) {
  const id = `${did}#${publicKeyMultibase}`;
  const key = await multikey.from({ id, controller: did, type: "Multikey", publicKeyMultibase, secretKeyMultibase });
  return new DataIntegrityProof({ signer: key.signer(), cryptosuite: jcs.createSignCryptosuite() });
}

const calls = {
  context: async ({ url, document }) => void contexts.set(url, document),
  // For each credential null if it verifies, else why it does not.
  verify: async ({ credentials, now, matching }) => {
    const answers = [];
    for (const one of credentials) answers.push(await verify(JSON.parse(one), new Date(now), matching));
    return answers;
  },
  lists: async ({ documents }) => {
    for (const one of documents.map((text) => JSON.parse(text))) lists.set(one.credentialSubject.id, one);
  },
  // The same for presentations, each of which has to be for this challenge and domain.
  verifyPresentations: async ({ presentations, now, ...expected }) => {
    const answers = [];
    for (const one of presentations) {
      try {
        answers.push(await verifyPresentation(JSON.parse(one), { now: new Date(now), ...expected }));
      } catch (error) {
        answers.push(String(error));
      }
    }
    return answers;
  },
  // N-Quads of a credential. Safe mode: an error where any member has no meaning in its contexts.
  quads: async ({ credential }) =>
    jsonld.toRDF(JSON.parse(credential), { documentLoader, safe: true, format: "application/n-quads" }),
  issue: async ({ credential, did, publicKeyMultibase, secretKeyMultibase, created }) => {
    const suite = await signer(did, publicKeyMultibase, secretKeyMultibase);
    if (created !== null) suite.proof = { created }; // else now, in whole seconds
    return canonicalize(await vc.issue({ credential, suite, documentLoader }));
  },
  present: async ({ presentation, did, publicKeyMultibase, secretKeyMultibase, challenge, domain, ...times }) => {
    const suite = await signer(did, publicKeyMultibase, secretKeyMultibase);
    suite.proof = { created: times.created, expires: times.expires };
    return canonicalize(await vc.signPresentation({ presentation, suite, challenge, domain, documentLoader }));
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const ask = JSON.parse(line);
  let said;
  try {
    said = { answer: (await calls[ask.call](ask)) ?? null };
  } catch (error) {
    said = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(JSON.stringify(said) + "\n");
}
